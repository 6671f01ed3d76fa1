"""Trains one library on one generated log, in the interpreter it is started with: `peers.py` starts it.

    python peer_worker.py REQUEST.json

A request names the library, its options, a seed, the data (.npz) and where the answer goes. The answer is a
JSON file with CPU and wall seconds of the training loop and the library's version, and an .npy file with
the predictions for the held-out rows. Each library trains one epoch of the same DeepFM (`peers.py` says
which settings and why) after a throw-away model has trained on the first batches; building data sets and
models is not timed. Nothing of evorank is imported unless it is the library asked for.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

DIM, BATCH, UNITS, RATE = 16, 4096, (256, 128, 64), 1e-3
WARM_UP = 4 * BATCH
SCORED_AT_ONCE = 16_384


@dataclass
class Log:
    """Codes int32 [n, fields], each below `size`; labels float32 [n]."""

    codes: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    size: int

    @property
    def names(self) -> list[str]:
        return [f"f{i}" for i in range(self.codes.shape[1])]

    def head(self, rows: int) -> Log:
        return Log(self.codes[:rows], self.labels[:rows], self.held_out, self.size)


Fitted = tuple[Callable[[], object], Callable[[], np.ndarray]]
"""A model ready to train: the training of one epoch (timed), then the held-out probabilities (not timed)."""


def in_parts(score: Callable[[torch.Tensor], torch.Tensor], codes: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        parts = [score(part) for part in torch.from_numpy(codes).long().split(SCORED_AT_ONCE)]
    return torch.cat(parts).view(-1).numpy()


class Batches:
    """Batches cut from tensors that lie in memory: a permutation, then one gather a column and batch."""

    def __init__(self, columns: dict[str, torch.Tensor]) -> None:
        self.columns = columns
        self.rows = len(next(iter(columns.values())))

    def __len__(self) -> int:
        return -(-self.rows // BATCH)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in torch.randperm(self.rows).split(BATCH):
            yield {name: column.index_select(0, index) for name, column in self.columns.items()}


def columns_of(log: Log) -> dict[str, torch.Tensor]:
    codes = torch.from_numpy(log.codes.T.copy()).long()
    return dict(zip([*log.names, "label"], [*codes, torch.from_numpy(log.labels)], strict=True))


# --------------------------------------------------------------------------- the libraries


def evorank(log: Log, seed: int, *, options: dict) -> Fitted:
    from evorank.model import train
    from evorank.model.config import Optimizer
    from evorank.model.expression import plan
    from evorank.model.system import Feature, LogSchema, Rows

    h1, h2, h3 = UNITS
    layers = {
        "h1": f"relu(dense(inputs, {h1}))",
        "h2": f"relu(dense(h1, {h2}))",
        "h3": f"relu(dense(h2, {h3}))",
        "deep": "dense(h3, 1)",
        "output": f"deep + fm(fields) + wide({', '.join(log.names)})",
    }
    config = Optimizer.model_validate({"batch_size": BATCH, "epochs": 1.0} | options)
    features = tuple(Feature(name, "categorical", log.size) for name in log.names)
    schema = LogSchema(features, {}, len(log.codes))
    network = train.build(plan(layers, schema, DIM), features, seed)

    def rows(codes: np.ndarray) -> Rows:
        return Rows(features, codes, np.zeros((len(codes), 0), np.float32))

    return (
        lambda: train.fit(network, config, "bce", rows(log.codes), log.labels, seed),
        lambda: train.predict(network, "bce", rows(log.held_out)),
    )


def recbole(log: Log, seed: int, *, learner: str = "adam", rate: float = RATE, amp: bool = False) -> Fitted:
    import pandas as pd
    from recbole.config import Config
    from recbole.data.dataloader import TrainDataLoader
    from recbole.data.dataset import Dataset
    from recbole.data.interaction import Interaction
    from recbole.model.context_aware_recommender.deepfm import DeepFM
    from recbole.trainer import Trainer
    from recbole.utils import FeatureSource, FeatureType, init_seed

    class FromMemory(Dataset):
        """RecBole's data set from arrays instead of files, with the codes of the log kept as they are."""

        def _load_data(self, token: str, dataset_path: str) -> None:
            for name in log.names:
                self.set_field_property(name, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
            self.set_field_property("label", FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
            self.inter_feat = pd.DataFrame(dict(zip(log.names, log.codes.T, strict=True)))
            self.inter_feat["label"] = log.labels
            self.user_feat = self.item_feat = None
            self.file_size_list = [len(log.codes)]

        def _remap_ID_all(self) -> None:
            for name in log.names:
                self.field2id_token[name] = np.arange(log.size)

    settings = {
        "USER_ID_FIELD": "f0", "ITEM_ID_FIELD": "f1", "LABEL_FIELD": "label", "load_col": None,
        "benchmark_filename": ["train"], "use_gpu": False, "show_progress": False, "state": "ERROR",
        "seed": seed, "reproducibility": True, "epochs": 1, "train_batch_size": BATCH, "worker": 0,
        "learner": learner, "learning_rate": rate, "enable_amp": amp,
        "embedding_size": DIM, "mlp_hidden_size": list(UNITS), "dropout_prob": 0.0,
    }  # fmt: skip
    config = Config(model=DeepFM, dataset="generated", config_dict=settings)
    init_seed(seed, True)
    (training,) = FromMemory(config).build()
    loader = TrainDataLoader(config, training, None, shuffle=True)
    model = DeepFM(config, training).to(config["device"])
    trainer = Trainer(config, model)

    def score(codes: torch.Tensor) -> torch.Tensor:
        return model.predict(Interaction(dict(zip(log.names, codes.T, strict=True))))

    def predict() -> np.ndarray:
        model.eval()
        return in_parts(score, log.held_out)

    return lambda: trainer.fit(loader, verbose=False, saved=False), predict


def fuxictr(log: Log, seed: int, *, ready: bool = False, fused: bool = False) -> Fitted:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel
    from fuxictr.pytorch.torch_utils import seed_everything

    seed_everything(seed)
    fields = FeatureMap("generated", ".")
    fields.labels, fields.default_emb_dim, fields.num_fields = ["label"], DIM, len(log.names)
    for name in log.names:
        fields.features[name] = {"source": "", "type": "categorical", "vocab_size": log.size}
    fields.set_column_index()

    class DeepFM(BaseModel):
        """Its package has the blocks; the models of its zoo are put together from them like this."""

        def __init__(self) -> None:
            super().__init__(fields, verbose=0, model_root=".", metrics=["logloss"])
            self.embedding = FeatureEmbedding(fields, DIM)
            self.fm = FactorizationMachine(fields)
            self.deep = MLP_Block(len(log.names) * DIM, list(UNITS), output_dim=1)
            self.compile("adam", "binary_crossentropy", RATE)
            self.reset_parameters()

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            x = self.get_inputs(inputs)
            vectors = self.embedding(x)
            logit = self.fm(x, vectors) + self.deep(vectors.flatten(start_dim=1))
            return {"y_pred": self.output_activation(logit)}

        def eval_step(self) -> None:
            """No validation: it is not training."""

        def load_weights(self, checkpoint: str) -> None:
            """No checkpoint was written, so there is none to read back."""

    model = DeepFM()
    if fused:
        model.optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    if ready:
        loader: object = Batches(columns_of(log))
    else:
        path = "generated.npz"
        np.savez(path, **dict(zip(log.names, log.codes.T, strict=True)), label=log.labels)
        loader = NpzDataLoader(fields, path, batch_size=BATCH, shuffle=True, num_workers=0)

    def score(codes: torch.Tensor) -> torch.Tensor:
        return model(dict(zip(log.names, codes.T, strict=True)))["y_pred"]

    def predict() -> np.ndarray:
        model.eval()
        return in_parts(score, log.held_out)

    return lambda: model.fit(loader, epochs=1), predict


def deepctr_torch(log: Log, seed: int, *, fused: bool = False) -> Fitted:
    import requests

    requests.get = None  # importing the library asks PyPI for its newest version: a measurement does not
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(name, log.size, embedding_dim=DIM) for name in log.names]
    no_l2 = {"l2_reg_linear": 0, "l2_reg_embedding": 0}
    model = DeepFM(columns, columns, dnn_hidden_units=UNITS, seed=seed, **no_l2)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True) if fused else "adam"
    model.compile(optimizer, "binary_crossentropy")

    def inputs(codes: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(log.names, codes.T.copy(), strict=True))

    x = inputs(log.codes)
    return (
        lambda: model.fit(x, log.labels, batch_size=BATCH, epochs=1, verbose=0),
        lambda: model.predict(inputs(log.held_out), SCORED_AT_ONCE).reshape(-1),
    )


LIBRARIES: dict[str, Callable[..., Fitted]] = {
    "evorank": evorank,
    "recbole": recbole,
    "fuxictr": fuxictr,
    "deepctr-torch": deepctr_torch,
}


def main() -> None:
    request = json.loads(Path(sys.argv.pop()).read_text())
    out = Path(request["out"]).absolute()
    with np.load(request["data"]) as arrays:
        log = Log(arrays["codes"], arrays["labels"], arrays["held_out"], int(arrays["size"]))
    build, seed, options = LIBRARIES[request["library"]], request["seed"], request["options"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:  # some libraries write logs where they stand
        os.chdir(scratch)
        build(log.head(WARM_UP), seed, **options)[0]()
        fit, predict = build(log, seed, **options)
        wall, cpu = time.perf_counter(), time.process_time()
        fit()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        np.save(out.with_suffix(".npy"), np.asarray(predict(), np.float32))
        os.chdir(out.parent)
    versions = {name: version(name) for name in (request["library"], "torch")}
    out.write_text(json.dumps({"cpu": cpu, "wall": wall, "versions": versions}))


if __name__ == "__main__":
    main()
