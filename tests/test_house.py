"""The house itself: what is public, which way imports point, what is pinned."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PUBLIC = {
    "cache": [
        "Chunk", "ChunkPlan", "Compaction", "DigestCache", "Failure", "FeatureStore", "Features", "Identity",
        "ImageSource", "LocalStorage", "Provenance", "RowOutcome", "Storage", "StoreWriter", "compact", "digest_bytes",
        "digest_file", "fingerprint", "parse_source", "verify",
    ],
    "stages.curation": ["REASONS", "CurateConfig", "Curated", "Dropped", "curate"],
    "stages.datasets": [
        "DEFAULT_KIND", "Cars196Benchmark", "Cub200Benchmark", "DatasetConfig", "DrawnConfig", "FolderConfig",
        "Food2kBenchmark", "Gldv2Benchmark", "Inat2018Benchmark", "InshopBenchmark", "InstreBenchmark",
        "M4d35kBenchmark", "MetBenchmark", "ParquetConfig", "Products10kBenchmark", "RevisitedBenchmark",
        "Rp2kBenchmark", "SopBenchmark", "Source", "SourceConfig", "TableConfig", "UnedBenchmark", "WebDatasetConfig",
    ],
    "stages.extraction": [
        "Backbone", "BackboneConfig", "BundledConfig", "Clock", "DecodeError", "Embedded", "Embedder",
        "Executor", "Filled", "LocalExecutor", "OpenClipConfig", "PcaBasis", "PcaConfig", "Plan", "Planned",
        "Preprocess", "PreprocessConfig", "Progress", "TimmConfig", "ViewsConfig", "decode", "extract", "extract_all",
        "fit_pca_basis", "load_backbone", "load_backbones", "plan_extraction",
    ],
    "stages.training": [
        "AdaCosConfig", "AdaFaceConfig", "ArcFaceConfig", "AttributesConfig", "BatchNormHeadConfig",
        "ClosedFormConfig", "CosFaceConfig", "CurricularFaceConfig", "ElasticArcFaceConfig", "ElasticCosFaceConfig",
        "EpochLog", "FusedFeatures", "Head", "HeadConfig", "HeadRecipe", "InputsConfig", "LiArcFaceConfig",
        "LinearHeadConfig", "LossConfig", "MagFaceConfig", "MarginByClassSize", "MlpHeadConfig", "MultilabelHeadConfig",
        "NormFaceConfig", "OptimizerConfig", "PosteriorHeadConfig", "Ramp", "SampledConfig", "SamplingConfig",
        "SphereFaceConfig", "SweepConfig", "TrainingConfig", "TrainingSummary", "embed", "epoch_events",
        "head_identity", "train_head",
    ],
    "stages.training.pairs": [
        "AllConfig", "ContrastiveConfig", "DistanceWeightedConfig", "EasyPositivesConfig", "HardConfig",
        "MarginConfig", "MinerConfig", "MultiSimilarityConfig", "PairLoss", "PairLossConfig", "PairLosses",
        "ProxyAnchorConfig", "ProxyNcaConfig", "RangeConfig", "RecallConfig", "SemiHardConfig", "SmoothApConfig",
        "SoftTripleConfig", "SupConConfig", "TripletConfig",
    ],
    "stages.retrieval.protocols": [
        "ByLabelConfig", "Gldv2Config", "IliasConfig", "LeaveOneOutConfig", "ListedConfig", "MetConfig",
        "Products10kConfig", "ProtocolConfig", "QueryGalleryConfig", "RankedConfig", "RevisitedConfig", "Rules",
        "SmallDataConfig", "UnedConfig",
    ],
    "stages.analysis": [
        "Bounds", "Change", "Changes", "Comparisons", "Decisions", "Difference", "GroupScore", "Hubs",
        "Moved", "Rate", "Rates", "SizeCurve", "SizedScore", "Spread", "Suspect", "Vote", "attribute_bounds",
        "by_class_size", "changes", "comparisons", "decide", "gallery_curve", "hubs", "metric_bounds",
        "paired_difference", "score_bounds", "spread", "suspects", "t_interval", "threshold_at", "votes",
    ],
    "stages.ranking": [
        "Metric", "at_every_k", "class_folds", "deal_classes", "find_metric", "leave_one_out",
        "mean_average_precision", "metric_names", "own_rows", "search", "unit_length", "values_by_class",
    ],
    "stages.records": ["COLUMNS", "Records", "read_records"],
    "stages.retrieval": [
        "AttributeMetric", "AutoIndexConfig", "BinaryIndexConfig", "Choice", "DatabaseAugmentationConfig",
        "Evidence", "FlatIndexConfig", "GalleryIndex", "HnswIndexConfig", "IndexConfig", "IvfFlatIndexConfig",
        "IvfPqIndexConfig", "KReciprocalConfig", "OpqIndexConfig", "ProtocolConfig", "QueryExpansionConfig", "QuerySet",
        "RabitqIndexConfig", "RefineConfig", "RerankConfig", "ScalarIndexConfig", "Score", "Scores",
        "Tried", "WhiteningConfig", "attribute_metric_names", "build_index",
        "choose_gallery_index", "choose_index", "evaluate", "evaluate_attributes", "evaluate_index",
        "evaluate_legacy", "evaluate_ranking", "evaluate_reranked", "index_gallery",
        "nearest",
    ],
}  # fmt: skip

FLAGS = {
    "extract": {"--batch-size", "--device", "--json", "--max-failures", "--quiet", "--retry-failed", "--workers"},
    "plan": {"--batch-size", "--device", "--json", "--quiet", "--retry-failed", "--workers"},
    "train-heads": {"--device", "--json", "--quiet", "--tensorboard"},
    "score": {"--by", "--json", "--quiet"},
    "run": {"--batch-size", "--device", "--json", "--max-failures", "--quiet", "--retry-failed", "--workers"},
    "demo": {"--artifacts", "--json", "--quiet"},
    "init": {"--force", "--output"},
    "inspect": {"--json"},
    "verify": {"--json"},
    "compact": {"--yes"},
    "curate": {"--force", "--json", "--output", "--quiet"},
    "sweep": {"--force", "--json", "--quiet", "--write"},
    "table": {"--json", "--quiet", "--workers"},
    "report": {"--health", "--json", "--output", "--queries", "--quiet"},
    "search": {"--all", "--fmr", "--fpir", "--head", "--json", "--quiet", "--threshold", "-k"},
    "compare": {"--backbone", "--head", "--json", "--metric", "--other-gallery", "--quiet", "--top"},
    "gallery-sizes": {"--backbone", "--distractors", "--head", "--json", "--quiet", "--size"},
    "threshold": {"--backbone", "--fmr", "--fpir", "--head", "--json", "--quiet"},
    "health": {"--backbone", "--head", "--json", "--near-duplicate", "--quiet", "--top"},
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_these(package: str) -> None:
    module = import_module(package)
    assert module.__all__ == PUBLIC[package]
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_commands_and_their_flags_are_these() -> None:
    from pipeline.cli import COMMANDS, load_command

    flags = {
        name: {max(option.opts, key=len) for option in load_command(name).params if option.opts[0].startswith("-")}
        for name in COMMANDS
    }
    assert flags == FLAGS


@pytest.mark.parametrize(
    "package", ["cache", *(f"stages.{room}" for room in ("analysis", "curation", "ranking", "records", "retrieval"))]
)
def test_this_loads_without_torch(package: str) -> None:
    script = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_the_lock_names_packages_and_versions_only_and_is_what_is_installed() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert not [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+( ; [a-z_ \"=0-9]+)?", line)
    ]
    pinned = dict(line.split(" ; ")[0].split("==") for line in lines)
    assert (pinned["torch"], pinned["torchvision"]) == ("2.15.0", "0.29.2")  # a pair that imports together
    for name in ("torch", "torchvision"):
        assert version(name).split("+")[0] == pinned[name]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *declared["project"]["dependencies"],
        *declared["project"]["optional-dependencies"]["bundled"],
        *declared["dependency-groups"]["dev"],
    ]
    locked = {name.lower().replace("_", "-") for name in pinned}
    assert {re.split(r"[<>=!~\[]", name)[0].lower().replace("_", "-") for name in wanted} <= locked


def test_torch_and_torchvision_import_together() -> None:
    script = "import torchvision, open_clip; torchvision.ops.nms"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT).returncode == 0


def test_every_source_file_is_readable_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for package in ("cache", "stages", "pipeline")
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
