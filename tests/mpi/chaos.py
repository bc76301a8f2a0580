"""Disturbs a training run for an hour, and compares it with a run that is left alone.

    cargo build --release --locked -p mmgem --features mpi
    python tests/mpi/chaos.py target/release/mmgem --minutes 60

Both runs start from the same seed, on 2 ranks under `mpirun`, at the same time (or in turn with
`--in-turn`, which takes less CPU and finds a difference later). One of them is disturbed every few
minutes, each time by a signal at random: SIGKILL to a rank or to `mpirun`, SIGTERM to either,
SIGSTOP to a rank for a while. A run that ended is resumed. Before some of the resumes a bit of the
newest checkpoint is flipped, a file of it is cut off, the folder of the run and its data is moved,
or the number of ranks changes.

Every checkpoint of the disturbed run must have the same bytes as the other run's of the same step,
weights and moments, and every step must be in `metrics.jsonl` once. The batch is divided into as
many parts on any number of ranks (`optim.workers` changes with it), and the sums of the parts are
made in pairs; so 1, 2 and 4 ranks make the same sums. Open MPI must add up by recursive doubling
for that.

Prints a line per event. Exits with 1 at the first difference.
"""

import argparse
import glob
import hashlib
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "assets"
# Parts of a batch, over all ranks.
PARTS = 4
# Number of ranks, in order.
RANKS = [2, 4, 1, 2]
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
MPIRUN += ["--mca", "coll_tuned_use_dynamic_rules", "1", "--mca", "coll_tuned_allreduce_algorithm", "3"]
# The longest time to wait for progress or for the end of a process, in seconds.
PATIENCE = 600
ENDLESS = 1_000_000_000

RUN = """
recipe = "stage1"
out = "run"
seed = 11
model = { config = "config.json", tokenizer = "tokenizer.json" }
data = { shards = ["data/*.tar"], mirror = true, sentences = true }
grounding = { weight = 1.0, contrast = true }
checkpoint = { every = 20, keep = 4 }
cluster = { timeout_secs = 300 }
[optim]
batch_size = 16
steps = %d
warmup_steps = 20
schedule = "constant"
lr_heads = 1e-3
lr_towers = 1e-3
chance_steps = 0
""" % ENDLESS


class Failure(Exception):
    """The run is not as it must be."""


def sizes():
    """A model that makes many steps per second."""
    config = json.loads((ASSETS / "presets/small.json").read_text())
    config |= {"num_caption_prompts": 4, "roi_output_size": 3, "max_text_len": 24, "embed_dim": 24}
    config["vision"] |= {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "proj_dim": 24}
    config["llm"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return json.dumps(config)


def wait(what, condition):
    """Waits until the condition returns something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise Failure(f"{PATIENCE} s without {what}")


def digest(checkpoint):
    """A digest of a checkpoint's weights and moments."""
    names = ["trainee.safetensors", "optimizer.safetensors"]
    return hashlib.sha256(b"".join((checkpoint / name).read_bytes() for name in names)).hexdigest()


def step_of(checkpoint):
    return int(checkpoint.name.removeprefix("step-"))


class Run:
    """A training run in a folder of its own."""

    def __init__(self, program, name, folder):
        self.program, self.name, self.folder = program, name, folder
        self.n_ranks, self.steps, self.process = RANKS[0], ENDLESS, None
        self.log = folder.parent / f"{name}.log"
        # Marks the processes of this run among those of others.
        self.mark = f"CHAOS={self.log}"
        self.digests = {}

    def start(self):
        out, data = self.folder / "run", self.folder / "data/*.tar"
        settings = [f"out={json.dumps(str(out))}", f"data.shards=[{json.dumps(str(data))}]"]
        settings += [f"optim.workers={PARTS // self.n_ranks}", f"optim.steps={self.steps}"]
        command = [*MPIRUN, "-n", str(self.n_ranks), self.program, "train", "run.toml", "--device", "cpu", "--resume"]
        for setting in settings:
            command += ["--set", setting]
        # One thread a worker, because more would compete for the cores.
        env = {**os.environ, "RAYON_NUM_THREADS": "1", "CHAOS": str(self.log)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log)

    def said(self):
        return self.log.read_text(errors="replace")

    def rank_ids(self):
        """Process ids of the ranks, in order of rank."""
        found = []
        for folder in glob.glob("/proc/[0-9]*"):
            try:
                variables = pathlib.Path(folder, "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.mark.encode() in variables:
                rank = [v.split(b"=")[1] for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
                found += [(int(rank[0]), int(folder.removeprefix("/proc/")))] if rank else []
        return [id for _, id in sorted(found)]

    def wait_for_end(self):
        """Waits for `mpirun` and all ranks; returns the exit status."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} has not ended {PATIENCE} s after its signal") from None
        wait("the end of the ranks", lambda: not self.rank_ids())
        return status

    def end(self):
        """Kills what is left."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for id in self.rank_ids():
            os.kill(id, signal.SIGKILL)

    def checkpoints(self):
        return sorted(self.folder.glob("run/checkpoints/step-????????"))

    def record(self):
        """Records the digests of new checkpoints; returns the step of the newest."""
        for checkpoint in self.checkpoints():
            step = step_of(checkpoint)
            if step in self.digests:
                continue
            try:
                self.digests[step] = digest(checkpoint)
            except OSError:
                pass  # It was removed, because newer ones came.
        return max(self.digests, default=0)

    def losses(self):
        """Step and loss of each line of `metrics.jsonl`."""
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


class Hour:
    """Two runs, and the events of one of them."""

    def __init__(self, program, folder, minutes, seed, in_turn):
        self.random, self.minutes, self.folder, self.in_turn = random.Random(seed), minutes, folder, in_turn
        self.begin = time.monotonic()
        home = folder / "home"
        home.mkdir()
        (home / "run.toml").write_text(RUN)
        (home / "config.json").write_text(sizes())
        shutil.copy(ASSETS / "model/tokenizer.json", home)
        subprocess.run([program, "scenes", "--out", home / "data", "--n", "120", "--seed", "1", "--per-shard", "40", "-q"], check=True)
        shutil.copytree(home, folder / "alone")
        toml = RUN.replace("keep = 4", "keep = 100")
        (folder / "alone/run.toml").write_text(toml)
        self.alone, self.disturbed = Run(program, "alone", folder / "alone"), Run(program, "disturbed", home)
        # A rank change and one of the others in turn.
        ranks = [("ranks", n) for n in RANKS[1:]]
        others = [("flip", None), ("cut", None), ("move", None)]
        self.random.shuffle(others)
        self.specials = [special for pair in itertools.zip_longest(others, ranks) for special in pair if special]
        self.n_events, self.n_compared = 0, 0
        self.is_watching, self.failed = True, None

    def say(self, text):
        seconds = int(time.monotonic() - self.begin)
        print(f"{seconds // 60:3}:{seconds % 60:02} {text}", flush=True)

    def compare(self):
        """Compares the checkpoints of both runs that are known."""
        common = self.alone.digests.keys() & self.disturbed.digests.keys()
        for step in sorted(common):
            if self.alone.digests[step] != self.disturbed.digests[step]:
                raise Failure(f"the checkpoints of step {step} differ")
        self.n_compared = len(common)

    def watch(self):
        """Records checkpoints until the end, on a thread."""
        while self.is_watching:
            try:
                for run in self.running:
                    run.record()
                self.compare()
            except Failure as failure:
                self.failed = failure
                return
            time.sleep(0.2)

    def check(self):
        """Fails if something ended or differs that must not."""
        if self.failed:
            raise self.failed
        for run in self.running:
            if run.process.poll() is not None:
                raise Failure(f"{run.name} ended by itself with {run.process.returncode}:\n{run.said()[-4000:]}")

    def sleep(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(0.1)

    def disturb(self):
        """Disturbs the run by a signal, and resumes it if it ended."""
        run = self.disturbed
        ids = run.rank_ids()
        if len(ids) != run.n_ranks:
            raise Failure(f"found {len(ids)} ranks, wanted {run.n_ranks}")
        self.n_events += 1
        rank = self.random.randrange(run.n_ranks)
        whom, id = (f"rank {rank} of {run.n_ranks}", ids[rank])
        kinds = ["KILL", "KILL", "TERM"] if self.specials else ["KILL", "KILL", "TERM", "STOP"]
        kind = self.random.choice(kinds)
        if kind != "STOP" and self.random.random() < 0.3:
            whom, id = "mpirun", run.process.pid
        before = self.disturbed.record()
        if kind == "STOP":
            os.kill(id, signal.SIGSTOP)
            self.sleep(self.interval() / 10)
            os.kill(id, signal.SIGCONT)
            self.say(f"event {self.n_events}: SIGSTOP and SIGCONT to {whom}; newest checkpoint {before}")
            return
        os.kill(id, signal.SIGKILL if kind == "KILL" else signal.SIGTERM)
        status = run.wait_for_end()
        if kind == "KILL" and status == 0:
            raise Failure(f"mpirun exits with 0 after a SIGKILL to {whom}")
        newest = run.record()
        self.say(f"event {self.n_events}: SIG{kind} to {whom}, exit {status}; newest checkpoint {newest}")
        special = self.specials.pop(0) if self.specials else (None, None)
        wanted = self.prepare(*special)
        run.start()
        self.progress(newest)
        if wanted and wanted not in run.said():
            raise Failure(f"{wanted!r} is not in the output:\n{run.said()[-4000:]}")

    def prepare(self, special, value):
        """Does something to a run that has ended; returns what the resumed run must say."""
        run = self.disturbed
        newest = run.checkpoints()[-1]
        file = newest / self.random.choice(["trainee.safetensors", "optimizer.safetensors"])
        if special == "flip":
            data = bytearray(file.read_bytes())
            at = self.random.randrange(len(data))
            data[at] ^= 1 << self.random.randrange(8)
            file.write_bytes(data)
            self.say(f"    a bit of byte {at} of {file.parent.name}/{file.name} is flipped")
        elif special == "cut":
            length = self.random.randrange(file.stat().st_size)
            os.truncate(file, length)
            self.say(f"    {file.parent.name}/{file.name} is cut to {length} bytes")
        elif special == "move":
            moved = self.folder / "moved"
            run.folder.rename(moved)
            run.folder = moved
            self.say("    the folder of the run and its data is moved")
        elif special == "ranks":
            self.say(f"    {run.n_ranks} ranks become {value}")
            run.n_ranks = value
        return f"the checkpoint of step {step_of(newest)} is damaged" if special in ("flip", "cut") else None

    def interval(self):
        return self.random.uniform(self.minutes * 60 / 30, self.minutes * 60 / 12)

    def progress(self, newest):
        """Waits until the run has a newer checkpoint, and two in all."""
        self.check()
        run = self.disturbed
        wait("a new checkpoint", lambda: self.check() or (run.record() > newest and len(run.checkpoints()) > 1))

    def __call__(self):
        self.running = [self.disturbed] if self.in_turn else [self.alone, self.disturbed]
        for run in self.running:
            run.start()
        self.progress(0)
        watcher = threading.Thread(target=self.watch, daemon=True)
        watcher.start()
        end = self.begin + self.minutes * 60
        while time.monotonic() < end or self.specials:
            self.sleep(self.interval())
            self.disturb()
        self.finish()
        self.is_watching = False
        watcher.join()

    def finish(self):
        """Ends the disturbed run some steps later, and compares its last checkpoint."""
        run = self.disturbed
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait_for_end()
        run.steps = (run.record() // 20 + 1) * 20
        run.start()
        if (status := run.wait_for_end()) != 0:
            raise Failure(f"the last resume exits with {status}:\n{run.said()[-4000:]}")
        run.record()
        if not (run.folder / "run/model/model.safetensors").is_file():
            raise Failure("the finished run has no model")
        self.say(f"the disturbed run is finished at step {run.steps}")
        if self.in_turn:
            self.running = [self.alone]
            self.alone.steps = run.steps
            self.alone.start()
            self.alone.wait_for_end()
            self.alone.record()
        wait("the same step of the run left alone", lambda: self.failed or run.steps in self.alone.digests)
        self.compare()
        found, wanted = run.losses(), range(1, run.steps + 1)
        if [step for step, _ in found] != list(wanted):
            raise Failure("a step is missing in metrics.jsonl, or is there twice")
        self.say(
            f"equal: weights and moments of all {self.n_compared} checkpoints that both runs have, to step {run.steps};"
            f" {self.n_events} events; loss {found[0][1]:.3f} at first, {found[-1][1]:.3f} at last"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mmgem", type=pathlib.Path, help="the program, built with the feature `mpi`")
    parser.add_argument("--minutes", type=float, default=3, help="how long to disturb the run [default: 3]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the events")
    parser.add_argument("--in-turn", action="store_true", help="run the other one afterwards")
    options = parser.parse_args()
    if not shutil.which("mpirun"):
        print("SKIPPED: no mpirun; install openmpi-bin")
        return
    with tempfile.TemporaryDirectory() as folder:
        hour = Hour(options.mmgem.resolve(), pathlib.Path(folder), options.minutes, options.seed, options.in_turn)
        try:
            hour()
        except Failure as failure:
            hour.say(f"FAILED: {failure}")
            sys.exit(1)
        finally:
            hour.is_watching = False
            for run in (hour.alone, hour.disturbed):
                run.end()


if __name__ == "__main__":
    main()
