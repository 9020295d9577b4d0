"""The list of faults: number -> (what it is, how it is injected)."""

from collections.abc import Callable
from pathlib import Path

from experiments.faults import disks, hosts, inputs, numbers, processes, programs, saves
from experiments.faults.runs import Outcome

ROWS: dict[int, tuple[str, Callable[[Path], Outcome]]] = {
    1: ("kill -9 at random", processes.killed_at_random),
    2: ("death in a save", disks.died_in_a_save),
    3: ("SIGTERM and SIGINT anywhere", processes.stopped_by_signals),
    4: ("SIGTERM at one of two hosts", hosts.stopped_at_one_of_two),
    5: ("a flipped bit", disks.flipped_bits),
    6: ("a broken file", disks.broken_files),
    7: ("all checkpoints bad", disks.all_bad),
    8: ("the newest bad, go on", disks.fell_back),
    9: ("disk full", disks.disk_full),
    10: ("unwritable workdir, odd names", disks.odd_workdirs),
    11: ("a save fails", saves.failed_saves),
    12: ("the run ends right after a save", saves.ended_after_a_save),
    13: ("two writers in one workdir", saves.two_writers),
    14: ("NaN batch, infinite gradient", numbers.not_finite),
    15: ("loss spike", numbers.spike),
    16: ("bad images", inputs.bad_images),
    17: ("a file changes during the run", inputs.changed_file),
    18: ("data order", numbers.order),
    19: ("noise fixed per image", numbers.noise),
    20: ("wrong settings", inputs.wrong_settings),
    21: ("resume with changed settings", inputs.changed_settings),
    22: ("config round trip", numbers.round_trip),
    23: ("hostile files", inputs.hostile_files),
    24: ("other device count", hosts.other_devices),
    25: ("host lost, hung or late", hosts.lost_or_late),
    26: ("sampling interrupted", programs.sampling_killed),
    27: ("no network, no HOME, read-only logs", programs.poor_environment),
    28: ("soak", programs.soak),
}
