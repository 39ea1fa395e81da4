"""Sends the events of a run to the callbacks and OUT/log.jsonl, each as a dict called a record.

Every record has "event" and "step", the number of steps taken so far. The other fields:

    prepare   while a long text is read, before start
                purpose       "encoding" (is it UTF-8?), "vocabulary", "tokens", "integrity" (are
                              the tokens of an earlier run intact?) or "fingerprint"
                bytes_read, bytes
    start     before the first step, also after a resume
                parameters, train_tokens, val_tokens, vocab_size, max_steps, isa, out
                threads       of each rank
                ranks         the number of processes that share each batch
                earlier       the path that an earlier run in out was moved to, or None
                resumed       whether the run continues one
                memory_needed, memory_free    bytes; free is None where it is unknown
                peak_flops    measured, or None
                bfloat16_gain    how many times as fast as float32 this CPU multiplies bfloat16,
                              measured before a new run in float32; None in others or without a unit
                config        the TrainConfig as a dict
    warning   after start
                text          a sentence, for example about a difference that force accepted
    step      after each step
                loss          the mean over the step's batches, in nats
                learning_rate
                grad_norm     before clipping
                tokens_per_second
                peak_share    the share of peak_flops, or None
                seconds_left
    eval      after each validation
                val_loss (nats), is_best, best_val_loss
                best_step          of best_val_loss; None in a run that an older version began
                evals_since_best   the number of validations after that one
    advice    after start, a step, a validation, or before the end (advice.py)
                topic         such as "warm_up"
                text          a sentence
                severity      a number that grows with what it warns of, or 1
    save      after each checkpoint: path
    sample    at sample_interval and at the end: prompt, text (its continuation)
    finished  instead of all events above, when the run to resume takes no further step
                out
                reason        "max_steps", or "patience" if that ended it
    end       as the last event
                val_loss      None unless the last step was validated
                best_val_loss, best_step, seconds, out
                reason        "max_steps", "patience", "signal" or "callback"
                interrupted   whether it is one of the last two
"""


def tell(callbacks, event, step, **fields):
    """Call each callback with a new record of an event.

    Args:
        callbacks: functions that take a record. A callback that returns True asks the run to end.
    Returns:
        Whether a callback asks the run to end.
    """
    answers = [callback({"event": event, "step": step, **fields}) for callback in callbacks]
    return any(answer is True for answer in answers)
