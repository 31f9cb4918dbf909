r"""How often the rule for champions promotes equal models, and a better one.

Two detectors that were trained on the drawn sample are run on new images of it. Then, many times:

- equal models: the detections of the two are exchanged per image at random, so neither is better.
  A promotion is luck, wanted in at most 5 % of the pairs;
- a true gain of 0.03: the second model has the better detector's detections on so large a share of
  the images that its mAP over all images is 0.03 higher. A promotion is right.

    detreg train yolox --data sample --base_model yolox_nano --pretrained_weights none \
        --image_size 160 --num_epochs 14 --batch_size 8     # and with --num_epochs 11 --seed 1
    python benchmarks/promotions.py A.onnx B.onnx
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detreg.data.dataset import load_dataset
from detreg.data.sample import write_sample
from detreg.evaluation.bootstrap import MatchedDetections, draw_image_counts, join_matches
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.inference.detector import Detector

SAMPLE_SEED = 7
"""Not that of the images that the detectors were trained on."""
GAIN = 0.03
VAL_SIZES = (10, 20, 50, 100, 300)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """Two detectors on the same images, joined: the first one's images, then the second one's."""

    joined: MatchedDetections
    num_images: int

    def select(self, chosen: Ints) -> "Pair":
        """Return the same for some images, which get positions in this order."""
        position_of = np.full(2 * self.num_images, -1)
        both = np.concatenate([chosen, chosen + self.num_images])
        position_of[both] = np.arange(len(both))

        matches = []
        for of_class in self.joined.matches:
            positions = position_of[of_class.image_positions]
            is_chosen = positions >= 0
            matches.append(
                replace(
                    of_class,
                    scores=of_class.scores[is_chosen],
                    image_positions=positions[is_chosen],
                    is_true_positive=of_class.is_true_positive[..., is_chosen],
                    is_ignored=of_class.is_ignored[..., is_chosen],
                    num_objects=of_class.num_objects[:, both],
                )
            )
        joined = replace(self.joined, image_ids=tuple(range(len(both))), matches=tuple(matches))
        return Pair(joined, len(chosen))

    def score(self, counts: npt.NDArray[np.int32], takes_second: Bools) -> npt.NDArray[np.float64]:
        """Return the mAP of resamples; on the images of the mask the second detector is used."""
        of_first = counts * ~takes_second
        of_second = counts * takes_second
        return self.joined.score_resamples(np.concatenate([of_first, of_second], axis=1)).mean_ap


@dataclass(frozen=True)
class Promotions:
    """The share of pairs in which the second model was promoted, by several rules."""

    percentile: float
    basic: float
    higher: float
    """As before: whatever has the higher mAP."""


def measure_promotions(
    pair: Pair,
    val_size: int,
    trials: int,
    draw_masks: Callable[[np.random.Generator, int], tuple[Bools, Bools]],
) -> Promotions:
    """Draw val splits, and count promotions; draw_masks says who uses the second detector where."""
    rng = np.random.default_rng(val_size)
    promoted = np.zeros(3)
    for _ in range(trials):
        chosen = rng.choice(pair.num_images, val_size, replace=False)
        split = pair.select(chosen)
        old, new = draw_masks(rng, val_size)

        once = np.ones((1, val_size), dtype=np.int32)
        counts = np.concatenate([once, draw_image_counts(val_size)])
        differences = split.score(counts, new) - split.score(counts, old)
        observed, resampled = differences[0], differences[1:]
        low, high = np.nanquantile(resampled, [0.025, 0.975])
        promoted += np.array([low > 0, 2 * observed - high > 0, observed > 0])
    percentile, basic, higher = promoted / trials
    return Promotions(float(percentile), float(basic), float(higher))


def exchange_at_random(rng: np.random.Generator, num_images: int) -> tuple[Bools, Bools]:
    """Return masks of two models of which neither is better."""
    mask = rng.random(num_images) < 0.5
    return mask, ~mask


def find_share_for_gain(pair: Pair) -> float:
    """Return the share of images on which the second detector brings the wanted gain."""
    once = np.ones((1, pair.num_images), dtype=np.int32)
    ranks = np.random.default_rng(0).permutation(pair.num_images) / pair.num_images
    base = pair.score(once, np.zeros(pair.num_images, dtype=bool))[0]
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        gain = pair.score(once, ranks < middle)[0] - base
        low, high = (middle, high) if gain < GAIN else (low, middle)
    return high


def load_pair(models: list[str], num_images: int) -> Pair:
    """Run both detectors on new images of the sample; the better one becomes the second."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "sample"
        write_sample(data, images=num_images, seed=SAMPLE_SEED)
        dataset = load_dataset(data, Path(folder) / "cache")
        truth = GroundTruth.load(dataset.splits["train"].annotations)
        matched = []
        for model in models:
            predictions = predict_split(Detector.load(model), truth)
            matched.append(MatchedDetections.match(truth, predictions))
    matched.sort(key=lambda model: model.score_split().mean_ap[0])
    scores = [float(model.score_split().mean_ap[0]) for model in matched]
    print(f"{len(truth.images)} images; mAP {scores[0]:.4f} and {scores[1]:.4f}", flush=True)
    return Pair(join_matches(matched), len(truth.images))


def main() -> None:
    """Print a table of promotions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2)
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--trials", type=int, default=200)
    arguments = parser.parse_args()

    pair = load_pair(arguments.models, arguments.images)
    share = find_share_for_gain(pair)
    print(f"the better detector on {share:.1%} of the images is a gain of {GAIN}")

    def gain(rng: np.random.Generator, num_images: int) -> tuple[Bools, Bools]:
        return np.zeros(num_images, dtype=bool), rng.random(num_images) < share

    print("| val images | pairs | percentile | basic | higher mAP |\n|---|---|---|---|---|")
    for name, draw_masks in (("equal", exchange_at_random), ("gain of 0.03", gain)):
        for val_size in VAL_SIZES:
            found = measure_promotions(pair, val_size, arguments.trials, draw_masks)
            shares = (found.percentile, found.basic, found.higher)
            cells = " | ".join(f"{value:.1%}" for value in shares)
            print(f"| {val_size} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
