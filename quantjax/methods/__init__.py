"""Methods: the training method of each paper, as a `Method` of pure functions.

  Paper                              Function               Learns from       Codes
  DQN (AAAI 2016)                    dqn, dqn_ste           pairs             product
  DPSH (IJCAI 2016)                  dpsh                   pairs             signs
  DHN (AAAI 2016)                    dhn                    pairs             signs
  DSH (CVPR 2016)                    dsh                    pairs             signs
  HashNet (ICCV 2017)                hashnet                pairs             signs
  Deep Cauchy Hashing (CVPR 2018)    dch                    pairs             signs
  ADSQ (IEEE Access 2019)            adsq                   pairs             signs
  DTSH (ACCV 2016)                   dtsh                   triplets          signs
  PQN (ECCV 2018)                    pqnet                  triplets          product
  DTQ (ACM MM 2018)                  dtq                    triplets          additive
  Triplet quantization (VCIP 2017)   triplet_quantization   triplets          signs
  DeepQuan (IJCAI 2018)              deepquan               neighbours        product
  BiHalf (AAAI 2021)                 bihalf                 features          signs
                                     bihalf_supervised      a classifier      signs
  CIBHash (IJCAI 2021)               cibhash                views             signs
  SPQ (ICCV 2021)                    spq                    views             product
  CSQ (CVPR 2020)                    csq                    class centres     signs
  DPN (IJCAI 2020)                   dpn                    class centres     signs
  OrthoHash (NeurIPS 2021)           orthohash              class centres     signs
  GreedyHash (NeurIPS 2018)          greedyhash             a classifier      signs
  Cosine softmax (BMVC 2019)         cosine_softmax         a classifier      product
  ours                               saturated_softmax      a classifier      signs, or product

Images may have several labels. Losses of pairs and triplets then ask whether two images share one.
CSQ and DPN let the centres of an image's labels vote on each bit; OrthoHash, GreedyHash and cosine
softmax share the target evenly among the labels. DeepQuan, BiHalf, CIBHash and SPQ need no labels.

Each file's docstring has the equations, where they and the defaults come from, and our differences.
A loss of one's own becomes a method by `supervised` or `supervised_with_arrays`.
"""

from quantjax.batch import Batch, Collectives
from quantjax.methods.adsq import adsq
from quantjax.methods.base import Context, Inputs, Loss, Method, Phase, Refresh, features, images
from quantjax.methods.bihalf import bihalf, bihalf_supervised
from quantjax.methods.cibhash import cibhash
from quantjax.methods.contract import check
from quantjax.methods.cosine_softmax import cosine_softmax
from quantjax.methods.csq import csq
from quantjax.methods.dch import dch
from quantjax.methods.deepquan import deepquan
from quantjax.methods.dhn import dhn
from quantjax.methods.dpn import dpn
from quantjax.methods.dpsh import dpsh
from quantjax.methods.dqn import dqn, dqn_ste
from quantjax.methods.dsh import dsh
from quantjax.methods.dtq import dtq
from quantjax.methods.dtsh import dtsh
from quantjax.methods.greedyhash import greedyhash
from quantjax.methods.hashnet import hashnet
from quantjax.methods.orthohash import orthohash
from quantjax.methods.pqnet import pqnet
from quantjax.methods.saturated_softmax import saturated_softmax, saturated_softmax_product
from quantjax.methods.spq import spq
from quantjax.methods.supervised import (
    ArraysLoss,
    EmbeddingLoss,
    FitCodec,
    InitLoss,
    TrainedCodec,
    supervised,
    supervised_with_arrays,
)
from quantjax.methods.triplet_quantization import triplet_quantization

__all__ = [
    "ArraysLoss",
    "Batch",
    "Collectives",
    "Context",
    "EmbeddingLoss",
    "FitCodec",
    "InitLoss",
    "Inputs",
    "Loss",
    "Method",
    "Phase",
    "Refresh",
    "TrainedCodec",
    "adsq",
    "bihalf",
    "bihalf_supervised",
    "check",
    "cibhash",
    "cosine_softmax",
    "csq",
    "dch",
    "deepquan",
    "dhn",
    "dpn",
    "dpsh",
    "dqn",
    "dqn_ste",
    "dsh",
    "dtq",
    "dtsh",
    "features",
    "greedyhash",
    "hashnet",
    "images",
    "orthohash",
    "pqnet",
    "saturated_softmax",
    "saturated_softmax_product",
    "spq",
    "supervised",
    "supervised_with_arrays",
    "triplet_quantization",
]
