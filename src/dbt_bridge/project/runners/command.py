"""dbt as a process of its own: dbt 2, which is a binary without a module, or a dbt 1 of another environment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from dbt_bridge.errors import DbtFailed, UsageError, scrubbed
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.arguments import spell_build, spell_look, spell_project, spell_selection
from dbt_bridge.project.graph import make_graph
from dbt_bridge.project.reading.output import read_output
from dbt_bridge.project.reading.project_file import find_target_folder, read_project_file
from dbt_bridge.project.reading.yaml_files import YamlFiles
from dbt_bridge.project.runners.contract import NOTHING, BuildResult, NodeResult, Parsed, as_utc, find_partial_option
from dbt_bridge.project.runners.failures import describe_parse_failure, describe_selection_failure, format_said
from dbt_bridge.system.temporary_files import temporary_folder

PARTIAL_PARSE = "partial_parse.msgpack"

_SECONDS_TO_END = 30
"""How long an interrupted dbt may take to cancel its queries and to write its artifacts."""

_SECONDS_TO_DIE = 5

Event = Mapping[str, Any]
"""A line of dbt's JSON log: `info` with `msg`, `level`, `name`, `invocation_id`, and `data`."""


class CommandRunner:
    """A dbt command, such as `/opt/dbt/bin/dbt`.

    Args:
        program: an executable file.
    """

    def __init__(self, program: Path) -> None:
        self._program = program

    @property
    def identity(self) -> str:
        """The file, and which packages of dbt are installed beside it, where it is a script of an environment."""
        file = self._program.resolve()
        found = file.stat()
        beside = sorted(
            path.name for path in self._program.parent.parent.glob("[Ll]ib/**/site-packages/dbt*.dist-info")
        )
        return f"command {file} {found.st_size} {found.st_mtime_ns} {beside}"

    def parse(self, options: DbtOptions) -> Parsed:
        """See `Runner`."""
        kept = find_target_folder(options) / PARTIAL_PARSE
        with temporary_folder("dbt") as folder:
            done = self._look(["build", *spell_look(options), "--select", NOTHING], options, folder)
            manifest = _read_artifact(folder / "manifest.json")
            # That alone counts with dbt 1: where warnings are errors, to build nothing is one. dbt 2 always writes one.
            if manifest is None or (done.code != 0 and _is_dbt_2(manifest)):
                raise describe_parse_failure(done.said, options)
            if (folder / PARTIAL_PARSE).exists():
                _replace(folder / PARTIAL_PARSE, kept)
        output = read_output(options)
        files = YamlFiles(read_project_file(options.project_dir.resolve(), options.vars), output)
        files.complete_sources(manifest)
        graph = make_graph(manifest, files.list_bare_sources(), files.list_raw_blocks(manifest))
        return Parsed(graph, output.profile, output.target)

    def list_selected(self, options: DbtOptions) -> frozenset[str]:
        """See `Runner`."""
        names: set[str] = set()

        def hear(event: Event) -> None:
            text = str(event["info"].get("msg", ""))
            if text.startswith('{"unique_id"'):
                names.add(json.loads(text)["unique_id"])

        arguments = ["ls", "--output", "json", "--output-keys", "unique_id"]
        arguments += [*spell_project(options), *spell_selection(options)]
        with temporary_folder("dbt") as folder:
            done = self._look(arguments, options, folder, hear)
        if done.code != 0:
            raise describe_selection_failure(done.said, spell_selection(options))
        return frozenset(names)

    def build(self, options: DbtOptions, *, quiet: bool = False) -> BuildResult:
        """See `Runner`."""
        given = _without(spell_build(options), "--write-json", "--no-write-json")
        given = _without(given, "--log-format", values=1)
        quietly = ["--quiet"] if quiet else []
        results = find_target_folder(options) / "run_results.json"
        before = _find_invocation(_read_artifact(results))
        done = self._run(["build", *quietly, *given, "--write-json"], os.environ, _print_event, sys.stdout.write)
        run = _read_artifact(results)
        invocation = _find_invocation(run)
        if run is None or invocation in ("", before):  # dbt came to no results: these are of an earlier run
            if done.code == 0:  # nothing was selected
                return BuildResult(True, ())
            raise DbtFailed(f"dbt build stopped: {done.said}", mend="read logs/dbt.log in the dbt project")
        args = run.get("args") or {}
        nodes = tuple(map(_make_result, run["results"]))
        partial, deferred = find_partial_option(args), bool(args.get("defer"))
        return BuildResult(done.code == 0, nodes, None, partial, invocation, deferred)

    def _look(
        self, arguments: Sequence[str], options: DbtOptions, folder: Path, hear: Callable[[Event], object] | None = None
    ) -> _Done:
        """A command whose artifacts go to a folder of ours, with dbt's own partial parse to begin with."""
        environment = dict(os.environ)
        kept = find_target_folder(options) / PARTIAL_PARSE
        if kept.exists():  # by the environment: dbt 2 has no such option, and takes no notice of the variable
            environment["DBT_PARTIAL_PARSE_FILE_PATH"] = str(kept)
        looking = ["--quiet", "--write-json", "--target-path", str(folder)]
        kept_arguments = _without(arguments, "--target-path", values=1)
        return self._run([*kept_arguments, *looking], environment, hear or _ignore, _ignore)

    def _run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        hear: Callable[[Event], object],
        write: Callable[[str], object],
    ) -> _Done:
        """Run dbt to its end.

        Args:
            hear: takes each event of its log.
            write: takes each line of anything else, such as what a Python model prints.
        """
        done = _Done()
        command = [str(self._program), *arguments, "--log-format", "json"]
        with _started(command, environment) as (process, errors):
            assert process.stdout is not None, "it was asked for"
            for line in process.stdout:
                event = _parse_event(line)
                if event is None:
                    write(line)
                else:
                    done.note(event)
                    hear(event)
            process.wait()
        done.code = process.returncode
        if done.code != 0 and not done.said:
            done.said = format_said(scrubbed("".join(errors)))
        return done


def _make_result(result: Mapping[str, Any]) -> NodeResult:
    ends = [step["completed_at"] for step in result.get("timing") or () if step.get("completed_at")]
    return NodeResult(
        result["unique_id"],
        result["status"],
        result.get("message"),
        float(result.get("execution_time") or 0),
        result.get("relation_name") or "",
        as_utc(datetime.fromisoformat(ends[-1])) if ends else None,
        result.get("compiled_code") or "",
    )


def _ignore(_: object) -> None:
    pass


class _Done:
    """What is known of a run when it has ended.

    Attributes:
        code: its exit code.
        said: its errors, one paragraph; empty without any.
    """

    def __init__(self) -> None:
        self.code, self.said = 0, ""

    def note(self, event: Event) -> None:
        if event["info"].get("level") == "error" and (said := format_said(str(event["info"].get("msg", "")))):
            self.said = f"{self.said} {said}".strip()


@contextlib.contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process, and the lines of its standard error; it has ended when the context has.

    It is in a session of its own, so that an interruption of the terminal reaches it once, from here, and nothing of
    it stays.
    """
    try:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(
            f"dbt cannot be started: {command[0]}: {error.strerror}", mend="name another one with --dbt PATH"
        ) from None
    errors: list[str] = []
    reader = _drain(process.stderr, errors)
    try:
        yield process, errors
    except BaseException:
        _drain(process.stdout, [])  # a full pipe would keep it from ending
        _end(process)
        raise
    finally:
        reader.join(_SECONDS_TO_DIE)


def _drain(stream: IO[str] | None, lines: list[str]) -> threading.Thread:
    assert stream is not None, "it was asked for"
    thread = threading.Thread(target=lambda: lines.extend(stream), daemon=True)
    thread.start()
    return thread


def _end(process: subprocess.Popen[str]) -> None:
    """As Ctrl-C would: dbt cancels its queries. What does not end is ended, and waited for."""
    for number, seconds in ((signal.SIGINT, _SECONDS_TO_END), (signal.SIGTERM, _SECONDS_TO_DIE)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _parse_event(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("info"), dict) else None


def _print_event(event: Event) -> None:
    """As dbt prints it without JSON: the local time, and the message."""
    info = event["info"]
    text = str(info.get("msg", ""))
    if info.get("level") == "debug":
        return
    moment = datetime.fromisoformat(info["ts"]).astimezone() if "ts" in info else datetime.now().astimezone()
    print(f"{moment:%H:%M:%S}  {text}" if text else "", flush=True)


def _read_artifact(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_dbt_2(manifest: Mapping[str, Any]) -> bool:
    return str(manifest.get("metadata", {}).get("dbt_version", "")).startswith("2.")


def _find_invocation(run: Mapping[str, Any] | None) -> str:
    """dbt's id of the run that wrote its results."""
    return str(((run or {}).get("metadata") or {}).get("invocation_id") or "")


def _replace(written: Path, kept: Path) -> None:
    """Put a file where dbt keeps its own, so that its next run finds it whole."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    beside = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.copyfile(written, beside)
    beside.replace(kept)


def _without(arguments: Sequence[str], *names: str, values: int = 0) -> list[str]:
    """Arguments without some options, each of which takes so many values: dbt refuses one that is given twice."""
    kept: list[str] = []
    skip = 0
    for argument in arguments:
        if argument in names:
            skip = values + 1
        if skip:
            skip -= 1
        else:
            kept.append(argument)
    return kept
