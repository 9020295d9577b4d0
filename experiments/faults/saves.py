"""Faults 11 to 13: saves that fail or come last, and two processes that save in one workdir."""

import contextlib
import resource
import shutil
import subprocess
from pathlib import Path

from experiments.faults.processes import (
    KEPT,
    LAST,
    SAVE_EVERY,
    all_whole,
    checkpoints_of,
    compiling,
    ended,
    one_line,
    partial_run,
    reference,
    scored,
    steps_of,
)
from experiments.faults.runs import (
    Outcome,
    outcome,
    run,
    same_run,
    started,
    steps_done,
    training,
    wait_until,
)


def ended_after_a_save(scratch: Path) -> Outcome:
    """Runs whose last step is the first, the second or many after a save; kill -9 as soon as the results are there.

    The last checkpoint is whole and the one of a run that was not killed, and the same command has nothing to do.
    """
    checks: list[bool | str] = []
    for every in (LAST, LAST - 1, LAST - 2, SAVE_EVERY):
        for killed in (False, True):
            workdir = scratch / f"saved every {every}, {'killed' if killed else 'ended'}"
            arguments = training(workdir, f"--config.training.save_every={every}")
            with started(arguments) as process:
                wait_until((workdir / "denoising_curve.json").is_file if killed else lambda: False, process)
                process.kill()
                process.wait()
            whole = all_whole(workdir)
            checks.append((LAST in scored(workdir) and whole) or f"{workdir.name}: {checkpoints_of(workdir)}")
            checks += [whole, *ended(workdir, arguments=arguments)]
    return outcome(checks)


def failed_saves(scratch: Path) -> Outcome:
    """A save in the background fails: a file is in its way, its folder is gone, its disk read-only or files too small.

    Training ends at the next save at the latest, in a line, and never as if all were well; once that is mended the
    same command does the same steps.
    """
    checks: list[bool | str] = []
    for break_it in (_blocked, _blocked_at_the_end, _folder_gone, _read_only, _small_files):
        workdir = scratch / break_it.__name__
        shutil.copytree(partial_run(), workdir)
        with contextlib.ExitStack() as mended:
            mounted = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", workdir / "checkpoints"]
            if break_it is _read_only:
                subprocess.run(mounted, check=True)
                mended.callback(subprocess.run, ["umount", "-l", workdir / "checkpoints"], check=True)
                shutil.copytree(partial_run() / "checkpoints", workdir / "checkpoints", dirs_exist_ok=True)
            failed = _failing(workdir, break_it, mended)
            line = one_line(failed, "could not be saved")
            checks.append(bool(line) or f"{workdir.name}: exit code {failed.returncode}: {failed.stderr[-300:]}")
            last = max(steps_of(workdir))
            late = last >= KEPT[-1] + 2 * SAVE_EVERY and break_it is not _blocked_at_the_end
            checks.append(not late or f"{workdir.name}: it went on to step {last}")
            if break_it is _read_only:
                subprocess.run(["mount", "-o", "remount,rw", workdir / "checkpoints"], check=True)
                checks += [all_whole(workdir), *ended(workdir)]
        if break_it is not _read_only:
            checks += [all_whole(workdir), *ended(workdir)]
    return outcome(checks)


def _failing(workdir: Path, break_it, mended) -> subprocess.CompletedProcess:
    """A run that goes on from the last of KEPT, until its saves fail."""
    done = steps_done(workdir)
    arguments = training(workdir, f"--config.debug_trace={break_it is not _small_files}")
    with started(arguments) as process:
        wait_until(compiling(workdir) if break_it is _small_files else lambda: steps_done(workdir) > done + 5, process)
        break_it(workdir, process, mended)
        shown, errors = process.communicate(timeout=200)
    return subprocess.CompletedProcess(arguments, process.returncode, shown, errors)


def _blocked(workdir, process, mended, step=KEPT[-1] + SAVE_EVERY):
    path = workdir / "checkpoints" / f".saving-{step}"
    path.write_text("")
    mended.callback(path.unlink, missing_ok=True)


def _blocked_at_the_end(workdir, process, mended):
    _blocked(workdir, process, mended, LAST)


def _folder_gone(workdir, process, mended):
    folder, away = workdir / "checkpoints", workdir / "away"
    folder.rename(away)
    folder.write_text("")
    mended.callback(lambda: (folder.unlink(), away.rename(folder)))


def _read_only(workdir, process, mended):
    subprocess.run(["mount", "-o", "remount,ro", workdir / "checkpoints"], check=True)


def _small_files(workdir, process, mended):
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def two_writers(scratch: Path) -> Outcome:
    """A second process in a workdir is refused and names the first, which is unharmed; a dead one holds nothing."""
    workdir = scratch / "run"
    reference()
    checks: list[bool | str] = []
    with started(training(workdir)) as first:
        wait_until(lambda: steps_done(workdir) > 10, first)
        second = run(training(workdir))
        lines = second.stderr.strip().splitlines()
        named = second.returncode == 2 and len(lines) == 1 and f"process {first.pid} " in lines[0]
        checks.append(named or f"the second: exit code {second.returncode}, {lines[-1:]}")
        first.communicate()
        checks.append(first.returncode == 0 or "the first was harmed")
    checks.append(same_run(reference(), workdir))
    with started(training(scratch / "killed")) as first:
        wait_until(lambda: steps_done(scratch / "killed") > 150, first)
        first.kill()
        first.wait()
    checks += ended(scratch / "killed")
    workdir = scratch / "together"
    with started(training(workdir)) as one, started(training(workdir)) as other:
        one.communicate()
        other.communicate()
    codes = sorted([one.returncode, other.returncode])
    checks.append(codes == [0, 2] or f"of two started together: exit codes {codes}")
    checks += ended(workdir)
    return outcome(checks)
