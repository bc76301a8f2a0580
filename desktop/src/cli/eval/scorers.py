import json
import os
import shutil
import sys

job = json.load(sys.stdin)
# Redirect stdout to stderr, so that output of the scorer and its Java program cannot mix with the answer.
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
if shutil.which("java") is None:
    sys.exit("java is not on the PATH")
if job["scorer"] == "meteor":
    from pycocoevalcap.meteor.meteor import Meteor as Scorer
else:
    from pycocoevalcap.spice.spice import Spice as Scorer
# On first use, SPICE downloads its parser here.
scorer = Scorer()
if not job.get("check"):
    found = {i: [caption] for i, caption in enumerate(job["candidates"])}
    wanted = dict(enumerate(job["references"]))
    mean, each = scorer.compute_score(wanted, found)
    if job["scorer"] == "spice":
        each = [score["All"]["f"] for score in each]
    json.dump({"mean": float(mean), "each": [float(score) for score in each]}, answer)
answer.close()
