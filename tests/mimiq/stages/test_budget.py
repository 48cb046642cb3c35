"""Budgets: what is raised, in which order, until when, and what is said when that is impossible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiq.config.budget import Budget, parse_size
from mimiq.config.precision import Precision, Roles, from_bits, int8
from mimiq.errors import BadInput, CheckFailed
from mimiq.stages.budget import Drop, Raising, choose, require_fits
from mimiq.stages.promotion import note
from mimiq.stages.sensitivity import Ranking, Sensitivity
from mimiq.stages.units import Unit

BASE, REFERENCE = 10_000, 80_000  # bytes of the file with nothing raised, and of full precision
W4A4, INT8 = from_bits(4, 4, uniform=True).placed(Roles()), int8().placed(Roles())


def ranked(gains: Sequence[float], sizes: Sequence[int], raised: str = "w8a8") -> Ranking:
    units = [
        Sensitivity(Unit(f"layer{index}", "layer", "w4a4", raised, size, 10 * (index + 1)), gain)
        for index, (gain, size) in enumerate(zip(gains, sizes, strict=True))
    ]
    units.sort(key=lambda found: -found.gain)
    return Ranking(tuple(units), loss=1.0, raised_loss=0.0, images=8, seconds=1.0)


def names(raising: Raising) -> list[str]:
    return [found.unit.name for found in raising.units]


def raised_in(precision: Precision) -> set[str]:
    roles = {pattern for pattern, _ in W4A4.overrides}
    return {pattern for pattern, _ in precision.overrides} - roles


def run(
    budget: Budget,
    ranking: Ranking,
    drop: Callable[[set[str]], float] = lambda raised: 0.0,
    precision: Precision = W4A4,
) -> tuple[Raising, list[set[str]]]:
    """The choice, and the sets of units that were tuned on the way."""
    sizes = {found.unit.name: found.unit.extra_bytes for found in ranking.units}
    tuned: list[set[str]] = []

    def drop_of(precision: Precision) -> Drop:
        tuned.append(raised_in(precision))
        return Drop(drop(tuned[-1]), 0.9, 512)

    raising = choose(
        budget,
        precision,
        ranking,
        drop_of=drop_of,
        size_of=lambda p: BASE + sum(sizes[name] for name in raised_in(p)),
        reference_bytes=lambda: REFERENCE,
    )
    return raising, tuned


class TestSize:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            *(("4MB", 4_000_000), ("800 kB", 800_000), ("3.5MiB", 3_670_016), ("1gb", 10**9)),
            *(("512B", 512), (" .5x ", 40_000), ("1.25X", 100_000)),
        ],
    )
    def test_is_read(self, text: str, expected: int) -> None:
        assert parse_size(text).bytes(REFERENCE) == expected

    @pytest.mark.parametrize("text", ["", "4", "MB", "-4MB", "0MB", "4 TB", "4MB4", "0.6 of fp32"])
    def test_is_refused(self, text: str) -> None:
        with pytest.raises(BadInput, match="is no size") as caught:
            parse_size(text)
        assert "4MB" in caught.value.next_step

    @pytest.mark.parametrize("points", [-0.1, 101, float("nan")])
    def test_points_that_are_none(self, points: float) -> None:
        with pytest.raises(BadInput, match="is no number of points"):
            Budget(max_drop=points)


class TestSizeBudget:
    def test_takes_the_largest_gains_a_byte_that_fit(self) -> None:
        ranking = ranked([0.5, 0.3, 0.2, -0.1], [9000, 1000, 2000, 0])
        raising, tuned = run(Budget(size=parse_size("13kB")), ranking)
        assert names(raising) == ["layer1", "layer2"]
        assert raising.size == (13_000, 13_000)
        assert raising.precision.of("layer1").label == "w8a8"
        assert raising.precision.of("layer0").label == "w4a4"
        assert tuned == []

    def test_what_costs_no_byte_is_always_raised_but_not_what_does_harm(self) -> None:
        raising, _ = run(Budget(size=parse_size("10kB")), ranked([0.1, -0.1, 0.3], [0, 0, 1]))
        assert names(raising) == ["layer0"]

    def test_relative_to_full_precision(self) -> None:
        raising, _ = run(Budget(size=parse_size("0.25x")), ranked([0.5, 0.4], [10_000, 1]))
        assert raising.size == (10_001, 20_000)

    def test_smaller_than_nothing_raised(self) -> None:
        with pytest.raises(BadInput, match=r"0.01 MB\) is too small") as caught:
            run(Budget(size=parse_size("5kB")), ranked([0.5], [1000]))
        assert "0.01MB or more" in caught.value.next_step

    @given(
        st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 5000)), min_size=1, max_size=12),
        st.integers(BASE, 40_000),
    )
    @settings(deadline=None)
    def test_is_kept_and_leaves_no_room_for_another(
        self, units: list[tuple[float, int]], limit: int
    ) -> None:
        ranking = ranked([gain for gain, _ in units], [size for _, size in units])
        raising, _ = run(Budget(size=parse_size(f"{limit}B")), ranking)
        assert raising.size is not None
        assert raising.size[0] <= limit
        left = [found for found in ranking.units if found not in raising.units and found.gain > 0]
        assert all(found.unit.extra_bytes > limit - raising.size[0] for found in left)


class TestMaxDrop:
    def test_nothing_is_raised_where_tuning_is_enough(self) -> None:
        raising, tuned = run(Budget(max_drop=1), ranked([0.5], [1]), lambda raised: 0.9)
        assert raising.units == ()
        assert raising.precision == W4A4
        assert tuned == [set()]

    def test_the_worst_are_raised_until_it_is_met(self) -> None:
        ranking = ranked([0.1, 0.6, 0.2, 0.1], [1, 1, 1, 1])
        raising, tuned = run(
            Budget(max_drop=1), ranking, lambda raised: 4.0 - 2.5 * len(raised & {"layer1"})
            - 1.0 * len(raised & {"layer2"})
        )  # fmt: skip
        assert names(raising) == ["layer1", "layer2"]
        assert tuned == [set(), {"layer1", "layer2"}]
        assert [drop.points for _, drop in raising.tries] == [4.0, 0.5]

    def test_prediction_that_falls_short_is_followed_by_more(self) -> None:
        """Three rounds, then everything: tuning takes long."""
        ranking = ranked([0.5] + [0.05] * 10, [1] * 11)
        raising, tuned = run(
            Budget(max_drop=1), ranking, lambda raised: 0.5 if len(raised) == 11 else 1.5
        )
        counts = [len(raised) for raised in tuned]
        assert counts == sorted(set(counts))
        assert len(counts) <= 5
        assert counts[-1] == len(raising.units) == 11

    def test_that_cannot_be_met_says_what_was_reached(self) -> None:
        with pytest.raises(CheckFailed, match=r"2\.34 points are lost") as caught:
            run(Budget(max_drop=1), ranked([0.5, 0.5], [1, 1]), lambda raised: 2.34)
        assert "cannot be met from w4a4: with all 2 units" in caught.value.problem
        assert "Allow 2.4 points or more" in caught.value.next_step

    def test_no_drop_at_all(self) -> None:
        raising, _ = run(
            Budget(max_drop=0), ranked([0.5, 0.5], [1, 1]), lambda raised: 2.0 - len(raised)
        )
        assert len(raising.units) == 2

    def test_within_a_size(self) -> None:
        budget = Budget(1, parse_size("11kB"))
        ranking = ranked([0.5, 0.4], [5000, 1000])
        raising, _ = run(budget, ranking, lambda raised: 2.0 - len(raised))
        assert names(raising) == ["layer1"]
        with pytest.raises(CheckFailed, match="within `size_budget=11kB`"):
            run(budget, ranking, lambda raised: 2.0)

    def test_gains_that_mean_nothing(self) -> None:
        """Raising all together does harm: no prediction, only trying."""
        ranking = replace(ranked([0.0, -0.1], [1, 1]), raised_loss=1.5)
        raising, _ = run(Budget(max_drop=1), ranking, lambda raised: 2.0 - len(raised))
        assert raising.tries[-1][1].points <= 1


class TestToFloat:
    def test_by_gain_for_each_multiplication(self) -> None:
        ranking = ranked([0.3, 0.4, 0.3], [1, 1, 1], raised="float")  # 10, 20, 30 products
        raising, _ = run(
            Budget(max_drop=1), ranking, lambda raised: 1.5 - len(raised), precision=INT8
        )
        assert names(raising) == ["layer0"]
        assert raising.precision.of("layer0").is_float

    def test_never_all_of_it(self) -> None:
        ranking = ranked([0.3, 0.4, 0.3], [1, 1, 1], raised="float")
        with pytest.raises(CheckFailed, match="with all 2 units"):
            run(Budget(max_drop=0), ranking, lambda raised: 1.0, precision=INT8)

    def test_not_while_anything_has_fewer_than_8_bits(self) -> None:
        mixed = ranked([0.3], [1]).units + ranked([0.9], [1], raised="float").units
        other = replace(mixed[1], unit=replace(mixed[1].unit, name="other"))
        ranking = Ranking((other, mixed[0]), 1.0, 0.0, 8, 1.0)
        raising, _ = run(Budget(size=parse_size("1MB")), ranking)
        assert names(raising) == ["layer0"]


class TestTwoSteps:
    """What is raised to 8 bits may be raised further, once all others have 8 bits."""

    def ranking(self) -> Ranking:
        ranking = ranked([0.6, 0.3], [10, 10])
        further = [
            Sensitivity(replace(found.unit, now="w8a8", raised="float", extra_bytes=30), gain)
            for found, gain in zip(ranking.units, (0.01, 0.04), strict=True)
        ]
        return replace(ranking, raised_loss=0.05, further=tuple(further))

    def drop(self, precision: Precision) -> float:
        left = {"w4a4": 2.0, "w8a8": 0.7, "float": 0.0}
        return sum(left[precision.of(f"layer{index}").label] for index in range(2))

    def choose(self, budget: Budget) -> tuple[Raising, list[list[str]]]:
        tuned: list[list[str]] = []

        def drop_of(precision: Precision) -> Drop:
            tuned.append([precision.of(f"layer{index}").label for index in range(2)])
            return Drop(self.drop(precision), 0.9, 96)

        bytes_of = {"w4a4": 0, "w8a8": 10, "float": 40}
        raising = choose(
            budget,
            W4A4,
            self.ranking(),
            drop_of=drop_of,
            size_of=lambda p: BASE + sum(bytes_of[p.of(f"layer{i}").label] for i in range(2)),
            reference_bytes=lambda: REFERENCE,
        )
        return raising, tuned

    def test_floating_point_only_after_all_have_8_bits(self) -> None:
        raising, tuned = self.choose(Budget(max_drop=1))
        assert ["w8a8", "w8a8"] in tuned
        assert tuned[-1] == ["w8a8", "float"]  # the larger gain of the second step
        assert names(raising) == ["layer0", "layer1", "layer1"]

    def test_not_where_8_bits_do(self) -> None:
        raising, tuned = self.choose(Budget(max_drop=1.5))
        assert tuned[-1] == ["w8a8", "w8a8"]
        assert names(raising) == ["layer0", "layer1"]

    def test_not_for_a_size_alone(self) -> None:
        raising, _ = self.choose(Budget(size=parse_size("1MB")))
        assert names(raising) == ["layer0", "layer1"]

    def test_not_over_a_size(self) -> None:
        with pytest.raises(CheckFailed, match="with all 2 units raised"):
            self.choose(Budget(1, parse_size(f"{BASE + 49}B")))
        raising, _ = self.choose(Budget(1, parse_size(f"{BASE + 50}B")))
        assert raising.size == (BASE + 50, BASE + 50)

    def test_the_note_tells_both_steps_as_one(self) -> None:
        budget = Budget(max_drop=1)
        text = note(budget, self.choose(budget)[0])
        assert "layer0 (w4a4 → w8a8), layer1 (w4a4 → float)." in text
        assert "1 of 2 are in floating point" in text
        assert text.endswith("Estimated on 96 images held out: 0.70 points lost, 4.00 without.")


class TestRequireFits:
    def test_a_file_over_its_budget_is_refused(self, tmp_path: Path) -> None:
        graph = tmp_path / "model.onnx"
        graph.write_bytes(bytes(1010))
        raised = {"size": [990, 1000], "size_budget": "1kB"}
        with pytest.raises(CheckFailed, match="1010 bytes, over `size_budget=1kB`") as error:
            require_fits(raised, graph)
        assert "smaller by 10 bytes" in error.value.next_step

    @pytest.mark.parametrize("raised", [None, {"size": None}, {"size": [990, 1010]}])
    def test_others_pass(self, tmp_path: Path, raised: dict[str, object] | None) -> None:
        graph = tmp_path / "model.onnx"
        graph.write_bytes(bytes(1010))
        require_fits(raised, graph)
