"""Reports of hand-made sweeps, and of what is none."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from raypixel.cli import main
from raypixel.errors import RaypixelError
from raypixel.figures.report_page import write_report
from raypixel.figures.tables import importance, ranking, two_way
from raypixel.sweeps.ledger import Ledger, TrialEntry, read_ledger

FACTS = {
    "id": "1",
    "name": "made",
    "description": "A <b>made</b> sweep",
    "base": "digits_pixelcnn",
    "metric": "val/bits_per_dim",
    "is_smoke": False,
    "reference": {"source": "somewhere, table 2", "unit": "bits/dim"},
    "started": "2026-01-01T00:00:00Z",
    "finished": None,
    "command": "raypixel sweep made.yaml",
    "data": {
        "name": "digits",
        "levels": "17 levels",
        "image_shape": [1, 8, 8],
        "num_images": {"train": 1297, "val": 250, "test": 250},
    },
    "baselines": {"uniform over 17 levels": 4.0875},
}


def entry(size: int, skip: bool, seed: int, val: float | None, **more) -> TrialEntry:
    configuration = f"hidden_size={size} use_skip={str(skip).lower()}"
    return TrialEntry(
        name=f"{configuration} seed={seed}",
        configuration=configuration,
        parameters={"model.hidden_size": size, "model.use_skip": skip},
        seed=seed,
        run_folder=f"trials/{size}-{skip}-{seed}",
        val_bits_per_dim=val,
        val_nll_nats=None if val is None else 44.36 * val,
        **more,
    )


def done(size: int, skip: bool, seed: int, val: float, **more) -> TrialEntry:
    test = {
        "bits_per_dim": val + 0.1,
        "nll_nats": 90.0,
        "standard_error_nats": 1,
        "num_images": 250,
    }
    return entry(size, skip, seed, val, status="done", test=test, seconds=61.0, **more)


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two sizes with and without skip connections, two seeds each; one failed, one runs."""
    entries = [
        done(8, False, 0, 2.0, reference=3.22),
        done(8, False, 1, 2.2, reference=3.22),
        done(16, False, 0, 1.8),
        done(16, False, 1, 1.8),
        entry(8, True, 0, None, status="failed", error="ValueError: a | b"),
        entry(16, True, 0, 1.5),
    ]
    return make(tmp_path, entries)


def make(folder: Path, entries: list[TrialEntry], **facts) -> Path:
    for one in entries:
        (folder / one.run_folder).mkdir(parents=True)
        lines = [json.dumps({"step": s, "val/bits_per_dim": 3.0 / s}) for s in (1, 2)]
        (folder / one.run_folder / "metrics.jsonl").write_text(
            "\n".join(lines) + '\n{"step": 3, "v'
        )
    Ledger(folder, {**FACTS, **facts}, {one.name: one for one in entries}).write()
    return folder


def test_report_ranks_and_names_the_conditions(sweep):
    markdown, html = write_report(sweep, sweep / "out")
    text = markdown.read_text()
    for needed in (
        "digits, 17 levels, 1x8x8",
        "train 1,297, val 250, test 250",
        "seeds: 0, 1",
        "6: 4 done, 1 failed, 1 running",
        "not finished",
        "bits/dim: somewhere, table 2",
        "raypixel sweep made.yaml",
        "| hidden_size=8 use_skip=true seed=0 | ValueError: a \\| b |",
        "![Learning curves](curves.png)",
        "uniform over 17 levels |  | 4.0875",
    ):
        assert needed in text, needed
    page = html.read_text()
    assert "A &lt;b&gt;made&lt;/b&gt; sweep" in page
    assert not re.search(r"<script|https?://|src=\"(?!data:)", page)
    assert page.count("data:image/png;base64,") == 2  # no checkpoint is there to sample from
    notes = text.split("importance.png")[1]  # and lines say so
    assert notes.count("hidden_size=16 use_skip=true seed=0: ") == 1


def test_ranking_has_means_deviations_and_published_values(sweep):
    table = ranking(read_ledger(sweep))
    by_label = {row[1]: row for row in table.rows}
    assert [row[1] for row in table.rows][:3] == [
        "hidden_size=16 use_skip=true",
        "hidden_size=16 use_skip=false",
        "hidden_size=8 use_skip=false",
    ]
    small = dict(zip(table.columns, by_label["hidden_size=8 use_skip=false"], strict=True))
    assert (small["validation"], small["test"]) == ("2.1000 ± 0.1414", "2.2000 ± 0.1414")
    assert (small["n"], small["published"]) == ("2", "3.22")
    failed = dict(zip(table.columns, by_label["hidden_size=8 use_skip=true"], strict=True))
    assert (failed["rank"], failed["state"], failed["validation"]) == ("-", "failed", "")


def test_two_parameters_make_a_two_way_table_as_in_the_paper(sweep):
    table = two_way(read_ledger(sweep))
    assert table.columns == ["", "model.use_skip = false", "model.use_skip = true"]
    assert table.rows == [
        ["model.hidden_size = 8", "2.1000 ± 0.1414 (3.22)", "failed"],
        ["model.hidden_size = 16", "1.8000 ± 0.0000", "1.5000"],
    ]


def test_importance_is_the_share_of_variance_that_a_parameter_explains(tmp_path):
    entries = [done(size, skip, 0, float(size)) for size in (1, 3) for skip in (False, True)]
    shares = importance(read_ledger(make(tmp_path, entries)))
    assert shares == {"model.hidden_size": 1.0, "model.use_skip": 0.0}


def test_one_trial_without_published_values_is_a_report(tmp_path):
    make(tmp_path, [done(8, False, 0, 2.0)], reference=None, finished="2026-01-01T01:00:00Z")
    markdown, _ = write_report(tmp_path, tmp_path / "out")
    text = markdown.read_text()
    assert "2.0000" in text
    assert "published" not in text
    assert "importance" not in text


def test_what_is_no_sweep_is_named(tmp_path):
    with pytest.raises(RaypixelError, match=r"must be a sweep's folder"):
        write_report(tmp_path / "none", tmp_path / "out")
    (tmp_path / "trials.json").write_text('{"format_version": 1, "tri')
    with pytest.raises(RaypixelError, match="damaged"):
        write_report(tmp_path, tmp_path / "out")
    make(tmp_path, [])
    with pytest.raises(RaypixelError, match="none has started"):
        write_report(tmp_path, tmp_path / "out")


def test_command_takes_a_name_below_runs(sweep):
    words = ["report", sweep.name, "--runs", str(sweep.parent)]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (sweep / "report" / "report.html").exists()
