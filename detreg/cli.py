"""The command line. Everything heavy is imported by the command that needs it, so that help is instant."""

import argparse
import errno
import json
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from detreg import __version__, templates
from detreg.errors import DetregError, DiskError, MemoryExhaustedError, UsageError
from detreg.params import Param, declared, near
from detreg.templates.template import RunOptions

Command = Callable[[argparse.Namespace], int]


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that a run ends as KILLED and says so."""


class _Parser(argparse.ArgumentParser):
    """Errors as one line with exit code 2, and no abbreviations: `--image` must not mean `--image_size`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")


def run(argv: Sequence[str]) -> int:
    """Runs one command and returns the exit code: 0, or that of the error, which is told in one line each problem."""
    debug = "--debug" in argv
    signal.signal(signal.SIGTERM, _terminate)
    try:
        arguments = _parse([word for word in argv if word != "--debug"])
        command: Command = arguments.command
        return command(arguments)
    except KeyboardInterrupt:
        return _told(["interrupted; what was done so far is kept"], 130)
    except _Terminated:
        return _told(["terminated; what was done so far is kept"], 143)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            raise
        known = _known(error)
        if known is None:
            return _told([f"this is a bug in detreg, {type(error).__name__}: {error} (add --debug for the traceback)"], 70, error)
        return _told(known.problems, known.exit_code, known)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise _Terminated


def _known(error: Exception) -> DetregError | None:
    if isinstance(error, DetregError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return DiskError(f"{error.filename or 'the disk'} could not be written: {error.strerror}")
    if isinstance(error, MemoryError):
        return MemoryExhaustedError("the machine has no memory left: lower batch_size, image_size or num_workers")
    return None


def _told(problems: Sequence[str], exit_code: int, error: Exception | None = None) -> int:
    """Prints the problems, and leaves them in the run that `mlflow run` made where training had not yet begun."""
    import os

    for problem in problems:
        print(f"detreg: {problem}", file=sys.stderr)
    if error is not None and "MLFLOW_RUN_ID" in os.environ:
        from detreg.tracking.runs import fail_waiting

        fail_waiting(error)
    return exit_code


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="detreg", description="Trains, tunes, registers and serves object detectors from templates.")
    parser.add_argument("--version", action="version", version=f"detreg {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_templates(commands)
    _add_data(commands)
    _add_train(commands, argv)
    _add_model_commands(commands, argv)
    _add_registry(commands)
    _add_weights(commands)
    arguments, unknown = parser.parse_known_args(argv)
    arguments.unknown = _pairs(unknown)
    if unknown and not hasattr(arguments, "values_of"):
        flags = tuple(f"--{name}" for name in vars(arguments))
        raise UsageError([f"unknown argument {word}{near(word, flags)}" for word in unknown if word.startswith("-")] or unknown)
    return arguments


def _command(commands: Any, name: str, command: Command, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=command)
    return parser


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one line of JSON for machines")


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Unknown `--name value` and `--name=value` as values, so that they are refused together with everything else that is wrong."""
    values: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            values[name] = value
        elif name:
            values[name] = word
        else:
            raise UsageError(f"unexpected argument {word}")
    return values


def _flags(parser: argparse.ArgumentParser, params: dict[str, Param], title: str) -> None:
    group = parser.add_argument_group(title)
    for param in params.values():
        help = f"{param.help} ({param.domain}; default {param.text(param.default)})"
        group.add_argument(f"--{param.name}", metavar="V", default=argparse.SUPPRESS, help=help.replace("%", "%%"))


def _resolve(argv: list[str], position: int) -> templates.Template | None:
    """The template named at a position of the command line, whose name is put in place of an alias."""
    if len(argv) <= position or argv[position].startswith("-"):
        return None
    template = templates.find(argv[position])
    argv[position] = template.name
    return template


# templates -----------------------------------------------------------------------------------------------------------------------


def _add_templates(commands: Any) -> None:
    parser = _command(commands, "templates", _templates, "list the templates, or one template's hyperparameters")
    parser.add_argument("name", nargs="?", help="a template's name or alias")
    _json_flag(parser)


def _templates(arguments: argparse.Namespace) -> int:
    if arguments.json:
        chosen = templates.find(arguments.name).as_json() if arguments.name else [t.as_json() for t in templates.TEMPLATES.values()]
        print(json.dumps(chosen))
    elif arguments.name is None:
        for template in templates.TEMPLATES.values():
            print(f"{template.name:14}{template.summary}")
    else:
        template = templates.find(arguments.name)
        print(f"{template.name} (also {', '.join(template.aliases)}): {template.summary}\n\n{template.description}\n")
        rows = [(p.name, p.text(p.default), p.domain, p.help) for p in declared(template.params).values()]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for name, default, domain, help in rows:
            print(f"{name:{widths[0]}}  {default:{widths[1]}}  {domain}\n{'':{sum(widths) + 4}}{help}")
    return 0


# data ----------------------------------------------------------------------------------------------------------------------------


def _add_data(commands: Any) -> None:
    parser = _command(commands, "check", _check, "find everything that is wrong with a dataset")
    parser.add_argument("data", help="folder, zip or tar of a COCO, Roboflow, Pascal VOC or YOLO dataset, or sample")
    _json_flag(parser)
    parser = _command(commands, "sample", _sample, "write the built-in dataset into a folder")
    parser.add_argument("folder")
    parser.add_argument("--format", choices=("coco", "voc", "yolo"), default="coco")
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)


def _check(arguments: argparse.Namespace) -> int:
    from detreg.data.dataset import report

    found = report(arguments.data)
    if arguments.json:
        print(json.dumps(found))
        return 0 if found["ok"] else 65
    for problem in found["problems"]:
        print(f"problem: {problem}")
    for sentence, count in found["repairs"].items():
        print(f"repaired: {sentence} ({count})")
    if found["ok"]:
        splits = ", ".join(f"{name} {split['images']} images with {split['boxes']} boxes" for name, split in found["splits"].items())
        print(f"{arguments.data} is good: {found['format']}, {splits}; classes {', '.join(found['classes'])}; digest {found['digest']}")
        return 0
    print(f"{arguments.data} has {len(found['problems'])} problems")
    return 65


def _sample(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from detreg.data.sample import draw

    draw(Path(arguments.folder), format=arguments.format, pictures=arguments.pictures, seed=arguments.seed)
    print(f"{arguments.pictures} pictures in {arguments.folder}; try: detreg check {arguments.folder}")
    return 0


# train ---------------------------------------------------------------------------------------------------------------------------


def _add_train(commands: Any, argv: list[str]) -> None:
    parser = _command(commands, "train", _train, "train a template, export it, register it")
    chosen = _resolve(argv, 1) if argv[:1] == ["train"] else None
    if chosen:
        parser.prog += f" {chosen.name}"
        parser.description = f"{chosen.summary}. {chosen.description}"
    parser.add_argument("template", metavar="TEMPLATE", help="one of " + ", ".join(templates.TEMPLATES))
    if chosen:
        _flags(parser, declared(chosen.params), "hyperparameters")
    _flags(parser, declared(RunOptions), "run options")
    _json_flag(parser)
    parser.set_defaults(values_of="train")


def _train(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    template = templates.find(arguments.template)
    names = [*declared(template.params), *declared(RunOptions)]
    values = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)} | arguments.unknown
    from detreg import pipeline

    params, options = pipeline.settings(template, values)
    trained = pipeline.run(template, params, options)
    print(_summary(trained))
    if arguments.json:
        print(json.dumps(asdict(trained)))
    return 0


def _summary(trained: Any) -> str:
    """What came out, and the three commands to try next."""
    name = f"{trained.model_name}@{trained.alias}"
    return f"""
mAP {trained.mAP:.3f}   mAP_50 {trained.mAP_50:.3f}   of the exported model on the val split
run (eid) {trained.run_id}
registered {trained.model_name} version {trained.model_version} as {trained.alias}: {trained.reason}

Try next:
  look      mlflow ui
  serve     mlflow models serve -m models:/{name} --env-manager local
  continue  mlflow run . -e {trained.template} --env-manager local -P continue_from_eid={trained.run_id} -P data=...
"""


# models --------------------------------------------------------------------------------------------------------------------------


def _add_model_commands(commands: Any, argv: list[str]) -> None:
    model_help = "a run id, models:/name@alias, models:/name/3 or an .onnx file"
    parser = _command(commands, "evaluate", _evaluate, "score a model on a dataset and write the report")
    parser.add_argument("model", metavar="MODEL", help=model_help)
    parser.add_argument("--data", required=True, help="a dataset, as for train")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    _json_flag(parser)

    parser = _command(commands, "predict", _predict, "write predictions.json and pictures with boxes")
    parser.add_argument("model", metavar="MODEL", help=model_help)
    parser.add_argument("pictures", metavar="PICTURES", nargs="+", help="pictures, or folders of them")
    parser.add_argument("--out", default="predictions", help="folder to write into (default predictions)")
    parser.add_argument("--score_threshold", type=float, help="lowest score that is reported (default: the model's own)")
    parser.add_argument("--max_detections", type=int, default=100, help="most detections of one picture (default 100)")

    parser = _command(commands, "export", _export, "write a model, or a template's checkpoint, as an ONNX file")
    parser.add_argument("model", metavar="MODEL|TEMPLATE", help=model_help + "; or a template, with --load_from")
    parser.add_argument("--out", required=True, help="the .onnx file to write")
    words = {word.lower() for template in templates.TEMPLATES.values() for word in (template.name, *template.aliases)}
    if argv[:1] == ["export"] and len(argv) > 1 and argv[1].lower() in words:
        chosen = _resolve(argv, 1)
        assert chosen
        parser.add_argument("--pictures", help="folder of pictures to compare the file and the network on (default: the sample's)")
        _flags(parser, declared(chosen.params), "hyperparameters")
        parser.set_defaults(values_of="export")


def _evaluate(arguments: argparse.Namespace) -> int:
    from detreg.tasks import evaluate

    result = evaluate(arguments.model, arguments.data, arguments.split)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"mAP {result.get('mAP', 0):.4f}   mAP_50 {result.get('mAP_50', 0):.4f}   on {arguments.split} of {arguments.data}")
        print(f"report in run {result['run_id']}, artifact report/index.html: mlflow ui")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from detreg.tasks import predict

    path = predict(arguments.model, arguments.pictures, arguments.out, arguments.score_threshold, arguments.max_detections)
    print(f"{path}, and the pictures beside it")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from detreg import tasks

    if getattr(arguments, "values_of", None) != "export":
        print(tasks.export_model(arguments.model, arguments.out))
        return 0
    template = templates.find(arguments.model)
    values = {name: getattr(arguments, name) for name in declared(template.params) if hasattr(arguments, name)} | arguments.unknown
    print(tasks.export_checkpoint(template, values, arguments.pictures, arguments.out))
    print(arguments.out)
    return 0


# registry ------------------------------------------------------------------------------------------------------------------------


def _add_registry(commands: Any) -> None:
    parser = _command(commands, "promote", _promote, "make a version of a registered model its champion, or go back to the one before")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("version", metavar="VERSION", nargs="?")
    parser.add_argument("--rollback", action="store_true", help="go back to the champion before")


def _promote(arguments: argparse.Namespace) -> int:
    version = None if arguments.version in (None, "none") else arguments.version
    if (version is None) != arguments.rollback:
        raise UsageError("give a version, or --rollback: detreg promote NAME VERSION, detreg promote NAME --rollback")
    from detreg.tracking import registry

    moved = registry.rollback(arguments.name) if version is None else registry.promote(arguments.name, version)
    print(f"{moved.name} version {moved.version} is {moved.alias}: {moved.reason}")
    return 0


# weights -------------------------------------------------------------------------------------------------------------------------


def _add_weights(commands: Any) -> None:
    parser = _command(commands, "weights", _weights, "list published weights, or fetch them for machines without a network")
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument("template", metavar="TEMPLATE", nargs="?")
    parser.add_argument("--base_model", help="default: the template's default")


def _weights(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        chosen = [templates.find(arguments.template)] if arguments.template else templates.TEMPLATES.values()
        for template in chosen:
            for name, weights in template.weights.items():
                print(f"{template.name:14}{name:22}{weights.url or 'not published in this layout'}")
        return 0
    if arguments.template is None:
        raise UsageError("which template? detreg weights fetch TEMPLATE [--base_model B]")
    from detreg.training.weights import published

    template = templates.find(arguments.template)
    base_models = declared(template.params)["base_model"]
    try:
        print(published(template, base_models.parse(arguments.base_model or base_models.default)))
    except ValueError as error:
        raise UsageError(f"base_model must be {error}") from None
    return 0
