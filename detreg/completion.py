"""The script with which a shell completes `detreg`, made of the parsers.

It holds all words, so that completing starts no Python. Flags are completed after a dash; where
nothing else fits, the shell completes the names of files.
"""

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping

from detreg.options import RunOptions, SweepOptions
from detreg.params import get_params
from detreg.templates import TEMPLATES

Parsers = Mapping[str, argparse.ArgumentParser]
"""By the name of a command; an empty one stands for the words before any command."""

_COMMANDS_OF_TEMPLATES = ("train", "sweep", "learning-curve", "export")

_FUNCTION = """\
_detreg() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
  local command="${COMP_WORDS[1]}" first="${COMP_WORDS[2]}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words=%(commands)s
  else
    case "$command $first $before" in
%(values)s
    esac
    if [ -z "$words" ] && [ "${word#-}" != "$word" ]; then
      case "$command $first" in
%(flags)s
      esac
    fi
  fi
  if [ -n "$words" ]; then
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  fi
}
complete -o default -F _detreg detreg
"""


def render_script(shell: str, list_parsers: Callable[[list[str]], Parsers]) -> str:
    """Return the script for `bash`, or for `zsh`, which runs the same one.

    `list_parsers` returns the parsers for the first words of a command line.
    """
    parsers = list_parsers([])
    names = [name for name in parsers if name]
    value_cases = [*_list_template_cases(), *_list_choice_cases(parsers), *_list_option_cases()]
    script = _FUNCTION % {
        "commands": _quote([*names, *_list_flags(parsers[""])]),
        "values": "\n".join(value_cases),
        "flags": "\n".join(_list_flag_cases(list_parsers)),
    }
    if shell == "zsh":
        return f"autoload -U +X bashcompinit && bashcompinit\n{script}"
    return script


def _list_template_cases() -> Iterator[str]:
    """Yield a case for each place of a template, and for each hyperparameter with few values."""
    for command in (*_COMMANDS_OF_TEMPLATES, "templates"):
        yield _format_case(f"{command} * {command}", list(TEMPLATES))
    yield _format_case("* --template", list(TEMPLATES))

    for name, template in TEMPLATES.items():
        for param in get_params(template.params).values():
            if param.choices:
                yield _format_case(f"* {name} --{param.name}", list(param.choices))


def _list_choice_cases(parsers: Parsers) -> Iterator[str]:
    """Yield a case for each argument of a command that has choices."""
    for command, parser in parsers.items():
        for action in parser._actions:
            choices = [str(choice) for choice in action.choices or ()]
            places = action.option_strings or [command]
            if command and choices:
                for place in places:
                    yield _format_case(f"{command} * {place}", choices)


def _list_option_cases() -> Iterator[str]:
    """Yield a case for each option of a run or a sweep with few values."""
    for param in (get_params(RunOptions) | get_params(SweepOptions)).values():
        if param.choices:
            yield _format_case(f"* --{param.name}", list(param.choices))


def _list_flag_cases(list_parsers: Callable[[list[str]], Parsers]) -> Iterator[str]:
    """Yield a case with the flags of each command, with a template first where it takes one."""
    for command in _COMMANDS_OF_TEMPLATES:
        for name in TEMPLATES:
            parser = list_parsers([command, name])[command]
            yield _format_case(f"{command} {name}", _list_flags(parser))

    for command, parser in list_parsers([]).items():
        if command:
            yield _format_case(f"{command} *", _list_flags(parser))


def _list_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return the long flags that the help shows."""
    flags: list[str] = []
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            flags += [flag for flag in action.option_strings if flag.startswith("--")]
    return flags


def _format_case(pattern: str, words: list[str]) -> str:
    # A blank in a pattern is quoted, a star is not.
    quoted = pattern.replace(" ", "\\ ")
    return f"      {quoted}) words={_quote(words)};;"


def _quote(words: list[str]) -> str:
    return shlex.quote(" ".join(words))
