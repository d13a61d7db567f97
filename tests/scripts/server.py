"""Runs scripts, each in a process of its own that finds the libraries imported: `server.py` reads jobs from stdin.

A job is a line of JSON: script, arguments, folder, log. The answer is a line with the exit status.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback


def run(job: dict) -> int:
    """Run one script in a child process, and return its exit status."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(job["folder"])
        sys.argv = [job["script"], *job["arguments"]]
        runpy.run_path(job["script"], run_name="__main__")
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Import once what all scripts do, then serve."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import trl
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel, Qwen3ForCausalLM, Trainer  # noqa: F401

    import dynamics

    # Names that load on first use.
    _ = trl.SFTTrainer, trl.TrlParser, trl.ModelConfig, dynamics.attach, dynamics.TokenRecorder
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
