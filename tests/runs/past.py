"""Run folders under test, written as a run leaves them, without running anything."""

import io
import json
import zipfile

import numpy as np
import yaml

from gdiff.store import outputs


def config(sampler="ddim", steps=10, seed=0, **more):
    """A configuration, with keys that follow from its options."""
    names = {"ddim": "gdiff.sampler.methods.ddim.Ddim", "heun": "gdiff.sampler.methods.heun.Heun"}
    part = {"_target_": names[sampler]} | ({"eta": 0.0} if sampler == "ddim" else {})
    return {
        "_target_": "gdiff.prepared.Experiment",
        "dataset": {"_target_": "gdiff.dataset.toy.Moons", "num_points": 50},
        "sampler": part,
        "schedule": {"_target_": "gdiff.schedule.edm.EDM", "steps": steps},
        "seed": seed,
        "num_samples": 4,
        **more,
    }


def make(folder, content, metrics=None, *, words=None, **record):
    """A run folder; without words Hydra's record is missing."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "run.json").write_text(json.dumps({"status": "complete"} | record))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if words is not None:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(words))
        choices = {"dataset": "moons", "schedule": "edm", "experiment": None}
        choices["sampler"] = "ddim" if "eta" in content["sampler"] else "heun"
        text = yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}})
        (folder / ".hydra" / "hydra.yaml").write_text(text)
    return folder


def make_sweep(folder):
    """Two samplers, two numbers of steps, two seeds: eight runs."""
    number = 0
    for sampler in ("ddim", "heun"):
        for steps in (10, 100):
            for seed in (0, 1):
                words = [f"sampler={sampler}", f"schedule.steps={steps}", f"seed={seed}"]
                w = (1 if sampler == "ddim" else 3) / steps * (1 + seed)
                metrics = {"sliced_w2": w, "rounds": steps, "nn_distance": 0.5}
                content = config(sampler, steps, seed)
                make(folder / str(number), content, metrics, words=words)
                number += 1
    return folder


def add_samples(folder, samples):
    """Samples as a run leaves them."""
    with zipfile.ZipFile(folder / outputs.SAMPLES, "w") as archive:
        for name, array in (("samples", samples), ("index", np.arange(len(samples)))):
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())


def damage(folder):
    """Runs that cannot be read, or would do harm; what each must be refused with."""
    bomb = "a: &a [1, 2]\nb: [*a, *a]\n"
    cases = {
        "nojson": ("run.json", "{", "run.json cannot be read"),
        "noyaml": ("config.yaml", "a: [", "config.yaml cannot be read"),
        "object": ("config.yaml", "!!python/object/apply:os.system [ls]", "cannot be read"),
        "bomb": ("config.yaml", bomb, "parts that stand for others"),
        "list": ("config.yaml", "[1]", "is not a configuration"),
        "deep": ("config.yaml", "[" * 30 + "]" * 30, "nested too deep"),
        "bytes": ("config.yaml", "\0", "cannot be read"),
        "nan": ("metrics.json", '{"a": NaN}', "metrics.json cannot be read"),
    }
    for name, (file, text, _) in cases.items():
        (make(folder / name, config(), {"sliced_w2": 1.0}) / file).write_text(text)
    target = make(folder / "link", config())
    (target / "config.yaml").unlink()
    (target / "config.yaml").symlink_to("/etc/passwd")
    cases["link"] = ("config.yaml", "", "is a link and not a plain file")
    return {name: message for name, (_, _, message) in cases.items()}
