"""The words that each command takes, as argparse parsers.

Flags of hyperparameters and options come from their declarations, so that nothing is written
twice. Nothing heavy is imported here: help and refusals are instant.
"""

import argparse
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TypeAlias

from detreg import commands, templates
from detreg.completion import render_script
from detreg.defaults import MAX_DETECTIONS
from detreg.errors import UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.params import Param, get_params, suggest_spelling
from detreg.redaction import refuse_credential
from detreg.templates.template import Template
from detreg.version import __version__

Command = Callable[[argparse.Namespace], int]

MODEL_HELP = "a run id, models:/name@alias, models:/name/3 or an .onnx file"
TEMPLATE_NAMES = ", ".join(templates.TEMPLATES)


class _Parser(argparse.ArgumentParser):
    """Raise UsageError instead of exiting, so that every refusal is printed in one way."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


Subparsers: TypeAlias = "argparse._SubParsersAction[_Parser]"


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the words of the command line.

    The namespace has `command`, the function to call, and `unknown`, the flags that no parser
    declares. Commands with hyperparameters check `unknown` together with everything else that
    is wrong; for the others it is refused here. Raises UsageError, also where an argument holds a
    password.
    """
    parser, subparsers = build_parser(argv)
    arguments, unknown = parser.parse_known_args(argv or ["--help"])
    arguments.unknown = _pair_flags_with_values(unknown)

    _refuse_credentials(arguments)
    takes_values = hasattr(arguments, "values_of")
    if unknown and not takes_values:
        name = next(word for word in argv if word in subparsers.choices)
        raise UsageError(_describe_unknown(arguments.unknown, subparsers.choices[name]))
    return arguments


def build_parser(argv: list[str]) -> tuple[argparse.ArgumentParser, Subparsers]:
    """Return the parser for these words, and the parsers of its commands.

    A template among the words adds its hyperparameters.
    """
    parser = _Parser(
        prog="detreg",
        description="Train, tune, register and serve object detectors from templates.",
        # `--image` must not mean `--image_size`.
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"detreg {__version__}")
    # cli.py takes it from anywhere among the words.
    parser.add_argument(
        "--debug",
        action="store_true",
        help="show the traceback of an error, at any place among the words",
    )

    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_templates(subparsers)
    _add_check(subparsers, argv)
    _add_sample(subparsers)
    _add_train(subparsers, argv)
    _add_sweep(subparsers, argv)
    _add_learning_curve(subparsers, argv)
    _add_evaluate(subparsers)
    _add_compare(subparsers)
    _add_predict(subparsers)
    _add_show(subparsers)
    _add_export(subparsers, argv)
    _add_promote(subparsers)
    _add_sync(subparsers)
    _add_weights(subparsers)
    _add_completion(subparsers)
    return parser, subparsers


def _refuse_credentials(arguments: argparse.Namespace) -> None:
    """Raise UsageError where an argument of any command holds a password or a token."""
    texts: list[tuple[str, str]] = list(arguments.unknown.items())
    for name, value in vars(arguments).items():
        if isinstance(value, str):
            texts.append((name, value))
        elif isinstance(value, list):
            texts += [(name, item) for item in value]

    problems = []
    for name, text in texts:
        try:
            refuse_credential(text)
        except ValueError as error:
            problems.append(f"{name} must be {error}")
    if not problems:
        return

    # `mlflow run` logs the parameters before it starts detreg.
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        problems.append(
            f"MLflow has logged it in run {run_id} already: remove that run with "
            f"mlflow runs delete --run-id {run_id}, then mlflow gc --run-ids {run_id}"
        )
    raise UsageError(problems)


def _pair_flags_with_values(words: Sequence[str]) -> dict[str, str]:
    """Return unknown `--name value` and `--name=value` by name."""
    values: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            values[name] = value
        elif name:
            values[name] = word
        else:
            raise UsageError(f"unexpected argument {word}{_suggest_flag(word)}")
    return values


def _suggest_flag(word: str) -> str:
    """Return how `name=value`, as `mlflow run -P` takes it, is written here; else nothing."""
    name, separator, value = word.partition("=")
    if not separator or not name.isidentifier():
        return ""
    return f": write --{name} {shlex.quote(value)}"


def _describe_unknown(names: Iterable[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return a problem for each unknown flag, with the flag that was probably meant."""
    flags: list[str] = []
    for action in parser._actions:
        flags += [option[2:] for option in action.option_strings if option.startswith("--")]
    problems = []
    for name in names:
        hint = suggest_spelling(name, flags)
        if "template" in flags and _is_hyperparameter(name):
            hint = ": it is a template's, so add --template TEMPLATE"
        problems.append(f"unknown argument --{name}{hint}")
    return problems


def _is_hyperparameter(name: str) -> bool:
    """Whether any template has a hyperparameter of this name."""
    return any(name in get_params(template.params) for template in templates.TEMPLATES.values())


def _add_command(subparsers: Subparsers, name: str, command: Command, help: str) -> _Parser:
    parser = subparsers.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(command=command)
    return parser


def _add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON for machines, and everything else to standard error",
    )


def _add_flags(parser: argparse.ArgumentParser, params: dict[str, Param], title: str) -> None:
    """Add a flag for each declared hyperparameter or option; those not given stay unset."""
    group = parser.add_argument_group(title)
    for param in params.values():
        default = param.format(param.default)
        help = f"{param.help} ({param.domain}; default {default})"
        group.add_argument(
            f"--{param.name}",
            metavar="V",
            default=argparse.SUPPRESS,
            help=help.replace("%", "%%"),  # argparse formats help texts with %
        )


def _get_template_words(argv: list[str], command: str) -> str | None:
    """Return the word after the command, which names templates, or None where help is wanted."""
    if argv[:1] != [command] or len(argv) < 2 or argv[1] in ("-h", "--help"):
        return None
    if argv[1].startswith("-"):
        raise UsageError(f"the template comes first: detreg {command} TEMPLATE {argv[1]} ...")
    return argv[1]


def _find_template(argv: list[str], command: str) -> Template | None:
    """Find the template that is named after the command, and put its name in place of an alias."""
    word = _get_template_words(argv, command)
    if word is None:
        return None
    template = templates.find_template(word)
    argv[1] = template.name
    return template


def _find_value(argv: list[str], command: str, flag: str) -> str | None:
    """Return the value of a flag on the command line of a command, None where it is not given."""
    if argv[:1] != [command]:
        return None
    for place, word in enumerate(argv):
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
        if word == flag and place + 1 < len(argv):
            return argv[place + 1]
    return None


def _is_template(word: str) -> bool:
    """Whether the word is the name or an alias of a template, in any case."""
    for template in templates.TEMPLATES.values():
        names = [template.name, *template.aliases]
        if word.lower() in [name.lower() for name in names]:
            return True
    return False


def _add_templates(subparsers: Subparsers) -> None:
    help = "list the templates, or one template's hyperparameters"
    parser = _add_command(subparsers, "templates", commands.list_templates, help)
    parser.add_argument("name", nargs="?", help="a template's name or alias")
    _add_json_flag(parser)


def _add_check(subparsers: Subparsers, argv: list[str]) -> None:
    help = "find everything that is wrong with a dataset"
    parser = _add_command(subparsers, "check", commands.check, help)
    parser.add_argument(
        "data", help="folder, zip or tar of a COCO, Roboflow, Pascal VOC or YOLO dataset, or sample"
    )
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="look for near copies, and blank, dark or blurred images, in a large dataset, too",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="check the masks of the boxes, too: polygons, run-length codes, SegmentationObject",
    )
    parser.add_argument(
        "--template",
        metavar="TEMPLATE",
        help=f"measure boxes at the size at which it trains, one of {TEMPLATE_NAMES}; its "
        "hyperparameters are flags then, such as --image_size",
    )
    parser.add_argument(
        "--page",
        metavar="FILE.html",
        help="write all of that, with plots and images, as one HTML file; implies --pixels",
    )
    name = _find_value(argv, "check", "--template")
    if name:
        template = templates.find_template(name)
        _add_flags(parser, get_params(template.params), f"hyperparameters of {template.name}")
        parser.set_defaults(values_of="check")
    _add_json_flag(parser)
    parser.add_argument("--strict", action="store_true", help="refuse warnings, too (exit code 65)")
    parser.add_argument(
        "--fix",
        metavar="OUT",
        help="write a mended copy into the new folder OUT, without images that cannot be used",
    )
    parser.add_argument(
        "--format",
        choices=("coco", "voc", "yolo"),
        help="format of the copy (default coco)",
    )


def _add_sample(subparsers: Subparsers) -> None:
    help = "write the built-in dataset into a folder"
    parser = _add_command(subparsers, "sample", commands.sample, help)
    parser.add_argument("folder")
    parser.add_argument("--format", choices=("coco", "voc", "yolo"), default="coco")
    parser.add_argument("--images", type=int, default=240, help="images in all (default 240)")
    _add_alias(parser, "--pictures", "images", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--masks",
        action="store_true",
        help="write the visible pixels of each object, too",
    )


def _add_train(subparsers: Subparsers, argv: list[str]) -> None:
    help = "train a template, export it, register it"
    parser = _add_command(subparsers, "train", commands.train, help)
    template = _find_template(argv, "train")
    if template:
        parser.prog += f" {template.name}"
        parser.description = f"{template.summary}. {template.description}"
    parser.add_argument("template", metavar="TEMPLATE", help=f"one of {TEMPLATE_NAMES}")
    if template:
        _add_flags(parser, get_params(template.params), "hyperparameters")
    _add_flags(parser, get_params(RunOptions), "run options")
    _add_json_flag(parser)
    parser.set_defaults(values_of="train")


def _add_sweep(subparsers: Subparsers, argv: list[str]) -> None:
    help = "search hyperparameters, register the best model"
    parser = _add_command(subparsers, "sweep", commands.sweep, help)
    parser.add_argument(
        "template", metavar="TEMPLATE[,TEMPLATE]", help=f"one or several of {TEMPLATE_NAMES}"
    )

    params: dict[str, Param] = {}
    words = _get_template_words(argv, "sweep")
    for name in words.split(",") if words else ():
        params |= get_params(templates.find_template(name).params)

    _add_flags(parser, params, "hyperparameters that are fixed, and not searched")
    _add_flags(parser, get_params(SweepOptions), "sweep options")
    _add_flags(parser, get_params(RunOptions), "run options")
    _add_json_flag(parser)
    parser.set_defaults(values_of="sweep")


def _add_learning_curve(subparsers: Subparsers, argv: list[str]) -> None:
    help = "train on parts of a dataset, and predict what twice the images would bring"
    parser = _add_command(subparsers, "learning-curve", commands.learning_curve, help)
    template = _find_template(argv, "learning-curve")
    parser.add_argument("template", metavar="TEMPLATE", help=f"one of {TEMPLATE_NAMES}")
    if template:
        _add_flags(parser, get_params(template.params), "hyperparameters")
    parser.add_argument(
        "--seeds",
        type=int,
        default=2,
        help="how often each part is drawn and trained on, each time with another seed (default 2)",
    )
    _add_flags(parser, get_params(RunOptions), "run options")
    _add_json_flag(parser)
    parser.set_defaults(values_of="learning-curve")


def _add_evaluate(subparsers: Subparsers) -> None:
    help = "score a model on a dataset and write the report"
    parser = _add_command(subparsers, "evaluate", commands.evaluate, help)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--data", required=True, help="a dataset, as for train")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    _add_json_flag(parser)


def _add_compare(subparsers: Subparsers) -> None:
    help = "tell whether model B is better than model A, or whether that may be luck"
    parser = _add_command(subparsers, "compare", commands.compare, help)
    parser.add_argument("a", metavar="A", help=MODEL_HELP)
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--data", help="a dataset, as for train (default: that of B's or A's run)")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    _add_json_flag(parser)


def _add_predict(subparsers: Subparsers) -> None:
    help = "write predictions.json and images with boxes"
    parser = _add_command(subparsers, "predict", commands.predict, help)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="images, videos, folders with all folders in them, patterns in quotes such as '*.jpg'",
    )
    parser.add_argument(
        "--out", default="predictions", help="folder to write into (default predictions)"
    )
    parser.add_argument(
        "--score_threshold",
        type=float,
        help="lowest score that is reported (default: the model's own)",
    )
    parser.add_argument(
        "--max_detections",
        type=int,
        default=MAX_DETECTIONS,
        help=f"most detections of one image (default {MAX_DETECTIONS})",
    )
    parser.add_argument(
        "--format",
        default="coco",
        choices=("coco", "voc", "yolo", "labelstudio"),
        help="labels to correct in an annotation tool, beside predictions.json, which is coco",
    )
    parser.add_argument(
        "--masks",
        choices=("polygons", "rle", "none"),
        help="how masks are written (default: polygons, where the model has masks); none leaves "
        "them out of the drawings, too",
    )


def _add_show(subparsers: Subparsers) -> None:
    help = "start a local page to try a model in the browser"
    parser = _add_command(subparsers, "show", commands.show, help)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--port", type=int, default=5001, help="port on 127.0.0.1; 0 takes any (default 5001)"
    )


def _add_export(subparsers: Subparsers, argv: list[str]) -> None:
    help = "write a model, or a template's checkpoint, as an ONNX file"
    parser = _add_command(subparsers, "export", commands.export, help)
    parser.add_argument(
        "model", metavar="MODEL|TEMPLATE", help=MODEL_HELP + "; or a template, with --load_from"
    )
    parser.add_argument("--out", required=True, help="the .onnx file to write")

    # Only a template takes hyperparameters. Any other word names a model.
    if len(argv) < 2 or not _is_template(argv[1]):
        return
    template = _find_template(argv, "export")
    if template is None:
        return
    parser.add_argument(
        "--images",
        help="folder of images to compare the file and the network on (default: the sample's)",
    )
    _add_alias(parser, "--pictures", "images")
    _add_flags(parser, get_params(template.params), "hyperparameters")
    parser.set_defaults(values_of="export")


def _add_promote(subparsers: Subparsers) -> None:
    help = "make a version of a registered model its champion, or go back to the one before"
    parser = _add_command(subparsers, "promote", commands.promote, help)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("version", metavar="VERSION", nargs="?")
    parser.add_argument("--rollback", action="store_true", help="go back to the champion before")


def _add_sync(subparsers: Subparsers) -> None:
    help = "deliver what a tracking server has not got yet, and close runs whose process is gone"
    parser = _add_command(subparsers, "sync", commands.sync, help)
    parser.add_argument(
        "run_id", metavar="RUN_ID", nargs="?", help="one run (default: all of this cache)"
    )


def _add_weights(subparsers: Subparsers) -> None:
    help = "list published weights, or fetch them for machines without a network"
    parser = _add_command(subparsers, "weights", commands.weights, help)
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument("template", metavar="TEMPLATE", nargs="?")
    parser.add_argument("--base_model", help="default: the template's default")
    parser.add_argument(
        "--masks",
        action="store_true",
        help="fetch what a training with masks=true starts from",
    )


def _add_completion(subparsers: Subparsers) -> None:
    help = "print a script that lets a shell complete commands, templates, flags and values"
    parser = _add_command(subparsers, "completion", _print_completion, help)
    parser.add_argument("shell", choices=("bash", "zsh"))


def _print_completion(arguments: argparse.Namespace) -> int:
    print(render_script(arguments.shell, _list_parsers), end="")
    return 0


def _list_parsers(argv: list[str]) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands by name, and under an empty name that of all."""
    parser, subparsers = build_parser(argv)
    return {"": parser, **subparsers.choices}


def _add_alias(
    parser: argparse.ArgumentParser, flag: str, dest: str, type: Callable[[str], object] = str
) -> None:
    """Accept the former name of a flag, without showing it in the help."""
    parser.add_argument(
        flag, dest=dest, type=type, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
