"""Runnable experiments: one file for each method, and in `tasks` one file for each data set.

    python -m experiments.METHOD DATA --config.KEY=VALUE

The name of an experiment is METHOD_DATA, such as dqn_mnist: its runs, its entry in the ledger and
its results carry that name.

- `dqn`, `dqn_ste`, `adsq`, `deepquan`, `triplet_quantization`: the methods.
- `field`: the field's methods, with equal network and optimizer, in searches of seen and unseen
  classes.
- `tasks`: data, split, augmentation, preparation and network of each data set.
- `configs`: what all methods do alike with a config; `baselines`: what they are compared with.
- `codes`: quantizers that are fitted to features or pixels without training a network.
- `ledger`: runs experiments over code lengths and seeds, keeps the numbers, renders the tables.
- `benchmarks`: how long things take.
- `dqn_mnist`: the experiment of README, which takes half a minute. `pictures` draws from it.
"""
