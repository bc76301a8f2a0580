import contextlib
import json
import shutil
import sys

job = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    if job["scorer"] == "meteor":
        from pycocoevalcap.meteor.meteor import Meteor as Scorer
    else:
        from pycocoevalcap.spice.spice import Spice as Scorer
    if shutil.which("java") is None:
        sys.exit("there is no java on the path")
    if job.get("check"):
        sys.exit(0)
    found = {i: [caption] for i, caption in enumerate(job["candidates"])}
    wanted = dict(enumerate(job["references"]))
    mean, each = Scorer().compute_score(wanted, found)
    if job["scorer"] == "spice":
        each = [score["All"]["f"] for score in each]
json.dump({"mean": float(mean), "each": [float(score) for score in each]}, sys.stdout)
