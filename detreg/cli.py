"""The command line: which words it takes, and how it ends. What the commands do is in commands.py."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from detreg import commands, templates
from detreg.defaults import MAX_DETECTIONS
from detreg.environment import set_mlflow_defaults
from detreg.errors import DetregError, DiskError, MemoryExhaustedError, NotFoundError, UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.params import Param, get_params, suggest_spelling
from detreg.templates.template import Template
from detreg.version import __version__

Command = Callable[[argparse.Namespace], int]


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that a run ends as KILLED and says so."""


class _Parser(argparse.ArgumentParser):
    """Errors as one line with exit code 2, and no abbreviations: `--image` must not mean `--image_size`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")


def run(argv: Sequence[str]) -> int:
    """Runs one command and returns the exit code: 0, or that of the error, which is told in one line each problem."""
    debug = "--debug" in argv
    set_mlflow_defaults()
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
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            return _told(
                [f"this is a bug in detreg, {what} (add --debug for the traceback)"], 70, error
            )
        return _told(known.problems, known.exit_code, known)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise _Terminated("terminated")


def _known(error: Exception) -> DetregError | None:
    if isinstance(error, DetregError):
        return error
    if isinstance(error, FileNotFoundError) and error.filename:
        return NotFoundError(f"{error.filename} is not there")
    if isinstance(error, OSError) and (
        error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    ):
        return DiskError(f"{error.filename or 'the disk'}: {error.strerror}")
    if isinstance(error, MemoryError):
        return MemoryExhaustedError(
            "the machine has no memory left: lower batch_size, image_size or num_workers"
        )
    return None


def _told(problems: Sequence[str], exit_code: int, error: Exception | None = None) -> int:
    """Prints the problems, and leaves them in the run that `mlflow run` made where training had not yet begun."""
    for problem in problems:
        print(f"detreg: {problem}", file=sys.stderr)
    if error is not None and "MLFLOW_RUN_ID" in os.environ:
        from detreg.tracking.runs import tag_failure_before_start

        tag_failure_before_start(error)
    return exit_code


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="detreg",
        description="Trains, tunes, registers and serves object detectors from templates.",
    )
    parser.add_argument("--version", action="version", version=f"detreg {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_templates(subparsers)
    _add_data(subparsers)
    _add_train(subparsers, argv)
    _add_sweep(subparsers, argv)
    _add_model_commands(subparsers, argv)
    _add_registry(subparsers)
    _add_weights(subparsers)
    arguments, unknown = parser.parse_known_args(argv)
    arguments.unknown = _pairs(unknown)
    if unknown and not hasattr(arguments, "values_of"):
        chosen = subparsers.choices[next(word for word in argv if word in subparsers.choices)]
        flags = [
            option[2:]
            for action in chosen._actions
            for option in action.option_strings
            if option.startswith("--")
        ]
        raise UsageError(
            [
                f"unknown argument --{name}{suggest_spelling(name, flags)}"
                for name in arguments.unknown
            ]
        )
    return arguments


def _command(subparsers: Any, name: str, command: Command, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=help, description=help)
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
        help = f"{param.help} ({param.domain}; default {param.format(param.default)})"
        group.add_argument(
            f"--{param.name}", metavar="V", default=argparse.SUPPRESS, help=help.replace("%", "%%")
        )


def _named_template(argv: list[str]) -> Template | None:
    """The template that stands after the command, whose name is put in place of an alias."""
    if len(argv) < 2 or argv[1] in ("-h", "--help"):
        return None
    if argv[1].startswith("-"):
        raise UsageError(f"the template comes first: detreg {argv[0]} TEMPLATE {argv[1]} ...")
    template = templates.find_template(argv[1])
    argv[1] = template.name
    return template


def _add_templates(subparsers: Any) -> None:
    parser = _command(
        subparsers,
        "templates",
        commands.list_templates,
        "list the templates, or one template's hyperparameters",
    )
    parser.add_argument("name", nargs="?", help="a template's name or alias")
    _json_flag(parser)


def _add_data(subparsers: Any) -> None:
    parser = _command(
        subparsers, "check", commands.check, "find everything that is wrong with a dataset"
    )
    parser.add_argument(
        "data", help="folder, zip or tar of a COCO, Roboflow, Pascal VOC or YOLO dataset, or sample"
    )
    _json_flag(parser)
    parser = _command(
        subparsers, "sample", commands.sample, "write the built-in dataset into a folder"
    )
    parser.add_argument("folder")
    parser.add_argument("--format", choices=("coco", "voc", "yolo"), default="coco")
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)


def _add_train(subparsers: Any, argv: list[str]) -> None:
    parser = _command(
        subparsers, "train", commands.train, "train a template, export it, register it"
    )
    chosen = _named_template(argv) if argv[:1] == ["train"] else None
    if chosen:
        parser.prog += f" {chosen.name}"
        parser.description = f"{chosen.summary}. {chosen.description}"
    parser.add_argument(
        "template", metavar="TEMPLATE", help="one of " + ", ".join(templates.TEMPLATES)
    )
    if chosen:
        _flags(parser, get_params(chosen.params), "hyperparameters")
    _flags(parser, get_params(RunOptions), "run options")
    _json_flag(parser)
    parser.set_defaults(values_of="train")


def _add_sweep(subparsers: Any, argv: list[str]) -> None:
    parser = _command(
        subparsers, "sweep", commands.sweep, "search hyperparameters, register the best model"
    )
    chosen: list[Template] = []
    if argv[:1] == ["sweep"] and len(argv) > 1 and argv[1] not in ("-h", "--help"):
        if argv[1].startswith("-"):
            raise UsageError(
                f"the template comes first: detreg sweep TEMPLATE[,TEMPLATE] {argv[1]} ..."
            )
        chosen = [templates.find_template(name) for name in argv[1].split(",")]
    parser.add_argument(
        "template",
        metavar="TEMPLATE[,TEMPLATE]",
        help="one or several of " + ", ".join(templates.TEMPLATES),
    )
    fixed = {
        name: param for template in chosen for name, param in get_params(template.params).items()
    }
    _flags(parser, fixed, "hyperparameters that are fixed, and not searched")
    _flags(parser, get_params(SweepOptions), "sweep options")
    _flags(parser, get_params(RunOptions), "run options")
    _json_flag(parser)
    parser.set_defaults(values_of="sweep")


def _add_model_commands(subparsers: Any, argv: list[str]) -> None:
    model_help = "a run id, models:/name@alias, models:/name/3 or an .onnx file"
    parser = _command(
        subparsers, "evaluate", commands.evaluate, "score a model on a dataset and write the report"
    )
    parser.add_argument("model", metavar="MODEL", help=model_help)
    parser.add_argument("--data", required=True, help="a dataset, as for train")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    _json_flag(parser)

    parser = _command(
        subparsers, "predict", commands.predict, "write predictions.json and pictures with boxes"
    )
    parser.add_argument("model", metavar="MODEL", help=model_help)
    parser.add_argument(
        "pictures", metavar="PICTURES", nargs="+", help="pictures, or folders of them"
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
        help=f"most detections of one picture (default {MAX_DETECTIONS})",
    )

    parser = _command(
        subparsers,
        "export",
        commands.export,
        "write a model, or a template's checkpoint, as an ONNX file",
    )
    parser.add_argument(
        "model", metavar="MODEL|TEMPLATE", help=model_help + "; or a template, with --load_from"
    )
    parser.add_argument("--out", required=True, help="the .onnx file to write")
    words = {
        word.lower()
        for template in templates.TEMPLATES.values()
        for word in (template.name, *template.aliases)
    }
    if argv[:1] == ["export"] and len(argv) > 1 and argv[1].lower() in words:
        chosen = _named_template(argv)
        assert chosen
        parser.add_argument(
            "--pictures",
            help="folder of pictures to compare the file and the network on (default: the sample's)",
        )
        _flags(parser, get_params(chosen.params), "hyperparameters")
        parser.set_defaults(values_of="export")


def _add_registry(subparsers: Any) -> None:
    parser = _command(
        subparsers,
        "promote",
        commands.promote,
        "make a version of a registered model its champion, or go back to the one before",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("version", metavar="VERSION", nargs="?")
    parser.add_argument("--rollback", action="store_true", help="go back to the champion before")


def _add_weights(subparsers: Any) -> None:
    parser = _command(
        subparsers,
        "weights",
        commands.weights,
        "list published weights, or fetch them for machines without a network",
    )
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument("template", metavar="TEMPLATE", nargs="?")
    parser.add_argument("--base_model", help="default: the template's default")
