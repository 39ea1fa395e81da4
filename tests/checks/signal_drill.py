"""Sends signals to training runs at random moments. Each must do what docs/training.md says:

    SIGINT, SIGTERM, SIGHUP    end the run after its step, with a checkpoint; before the first step
                               they end the process at once
    SIGINT twice               ends the process at once
    SIGUSR1                    ends the process at once: pygpt does nothing with it
    SIGPIPE, SIGWINCH, SIGSTOP and SIGCONT    change nothing
"""

import signal
import time

from drills import NOTED, Reference, Run, counted, state_of

from pygpt.training.run_log import read_log

ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
ROUNDS = [*((number,) for number in ENDING), (signal.SIGINT, signal.SIGINT), (signal.SIGUSR1,),
          (signal.SIGPIPE,), (signal.SIGWINCH,), (signal.SIGSTOP, signal.SIGCONT)]
AT_ONCE = {130: signal.SIGINT} | {-number: number for number in signal.valid_signals()}


def one_round(run, numbers, rng):
    """Send signals to a process that continues the run, and check how it ends and what it leaves.

    Returns:
        How it ended: "at once", "after a step" or "at its end".
    """
    child = run.start()
    run.pause(rng, child)
    for number in numbers:
        child.send(number)
        time.sleep(rng.choice((0, 0.001, 0.01)))
    status, first = child.wait(), numbers[0]
    if status == 0:  # it had ended, or nothing came of the signal
        run.finish()
        return "at its end"
    assert first in (*ENDING, signal.SIGUSR1), (numbers, status, child.output.read_text())
    assert AT_ONCE.get(status, status - NOTED) == first, (numbers, status, child.output.read_text())
    is_begun = run.check()
    if status in AT_ONCE:
        return "at once"
    assert is_begun and _is_saved_after_its_step(run.out), f"{first.name}: the last step is lost"
    return "after a step"


def _is_saved_after_its_step(out):
    """Return whether the log's last record is the end of a run that saved its last step."""
    records = read_log(out / "log.jsonl") if (out / "log.jsonl").exists() else []
    return bool(records) and records[-1]["event"] == "end" and (
        records[-1]["step"] == state_of(out).step)


def drill(home, rounds, rng):
    """Send signals this many times; return {what was counted: number}."""
    run, counts = Run(home, "signalled", Reference(home)), {}
    for number in range(rounds):
        numbers = ROUNDS[number % len(ROUNDS)]
        name = "+".join(one.name for one in numbers)
        with counted(name, counts):
            how = one_round(run, numbers, rng)
            counts[how] = counts.get(how, 0) + 1
        if len(counts.get("failures", ())) > 5:
            break
    return counts
