"""The commands that keep checkpoints, every experiment, each at a size of seconds."""

from sims.__main__ import experiments

TOYS = "--members 2 --n-features 8 --dim 4 --head-dim 4 --n-keys 4 --batch 32 --rate 0.01"
MODELS = "--members 2 --steps 400"
CONTEXTS = "--contexts 128"
OPTIONS = {
    "ablate": f"--tasks largest {MODELS} --sequences 64 --random 2 --resamples 100",
    "anisotropy": "--dim 4 --n-features 8 --frames 2 --conditions 3 --largest 100 --followed 3 --steps 60",
    "calibration": "--repetitions 20 --contexts 4",
    "capacity": f"--square-seeds 2 --square-steps 60 --softmax-seeds 2 --softmax-steps 5 {CONTEXTS}",
    "causes": f"--tasks largest {MODELS} --sequences 64 --random 2 --resamples 100",
    "cone": f"--dim 5 --n-features 10 --means 0 2 --frames 2 --steps 15 {CONTEXTS}",
    "contexts": f"--tasks largest {MODELS} --sequences 64 --contexts 2 --modes 1",
    "ledger": f"--square-seeds 1 --square-steps 40 --softmax-seeds 1 --softmax-steps 4 {CONTEXTS}",
    "multi_pair": f"{TOYS} --pairs 2 --steps 1200",
    "phase": "--dim 4 --crowding 1.5 3 --couplings 4 --starts 2 --steps 120",
    "reading": f"--dim 5 --conditions 100 --crowds 1 --densities 0.6 --strengths 5 --head-dims 2 --frames 2 --steps 60 "
    f"--softmax-steps 30 {CONTEXTS}",
    "relu_phase": "--probabilities 0.1 0.03 0.01 --couplings 4 --searches 2 --steps 120 --batch 32 --tokens 512",
    "robustness": f"{TOYS} --steps 1200 --couplings 1 --features --contexts --head-dims 2 --probabilities 0.3",
    "rotary": "--dim 4 --n-features 6 --n-offsets 6 --frames 2 --frequencies 1.0 0.4 --turns 3 --starts 2 --steps 120",
    "sad_toy": f"{TOYS} --pairs 2 --steps 1200 --snapshots 2 --decisions 32 --draws 19",
    "sad_training": "--steps 100 --sequences 4 --draws 19 --snapshots 2",
    "sampling": "--dim 3 --contexts 0.5 32 --frames 1 --heads 2 --steps 8 --limit 512 --samples 128 "
    "--noisy-contexts 0.5 2 --noisy-heads 2 --noise 2",
    "share": f"--heads 2 {MODELS} --sequences 64",
    "single_pair": f"{TOYS} --steps 1200 --strengths 1 20 --probabilities 0.1",
    "superposition": f"{TOYS} --steps 1200 --probabilities 0.1",
    "templates": "--seeds 2 --strengths 0.1 --steps 30 --transformers 2 --training 100 --sequences 64 --draws 99",
    "training": f"{TOYS} --steps 1200 --modes 3 1 --start 1e-4",
    "transformer_align": f"--tasks largest {MODELS} --sequences 64 --draws 9",
    "transformer_training": f"--tasks largest {MODELS} --sequences 64 --draws 19",
    "unwhitening": f"--dim 5 --n-features 10 --conditions 1 10 --frames 2 --steps 15 {CONTEXTS}",
    "weight_decay": "--dim 5 --decays 3 --seeds 2 --followed 3 --steps 60",
    "writers": f"--tasks induction {MODELS} --sequences 64",
}
COMMANDS = {
    name: [name, *OPTIONS[name].split()] for name in experiments()
}  # a new experiment without options fails here
