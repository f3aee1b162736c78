"""One file that embeds an image without Permafrost: ``torch.export`` (.pt2), TorchScript (.pt) or ONNX (.onnx)."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cache.atomic import replace_bytes
from cache.errors import ConfigError, SettingsError, WeightsError
from pipeline.bundle.graph import Pixels, Vector, Whole
from stages.extraction import Embedder
from stages.ranking import unit_length

Format = Literal["export", "torchscript", "onnx"]
ENDINGS: dict[Format, str] = {"export": ".pt2", "torchscript": ".pt", "onnx": ".onnx"}
NOTE = "permafrost.json"  # the extra file, or the property of an ONNX model, that names the embeddings

Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""What a file does: an image (3, H, W) to its vector (E,)."""

_LEAST_COSINE = 0.999  # of drawn images, whose edges are harder than those of photographs
_OPSET = 18  # the first whose Resize can antialias


def write_graph(embedder: Embedder, path: Path, form: Format, note: Mapping[str, Any]) -> float:
    """Write what ``embedder`` computes of one image to the file ``path``, with a ``note`` in it.

    The file takes (3, H, W) uint8, RGB, and gives (E,) float32 of unit length. Returned is the least cosine of what it
    gives for three drawn images to what ``embedder`` does. Raises ConfigError for another ending than that of the
    ``form`` and where the extra ``export`` is missing, SettingsError for what has no such form, WeightsError where the
    file would give other vectors.

    >>> from stages.extraction import PcaBasis, PcaConfig, load_backbone
    >>> basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    >>> embedder = Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)])
    >>> write_graph(embedder, Path("x.pt2"), "export", {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    cache.errors.SettingsError: pca cannot be exported to one file: it is no network of a library...
    """
    if path.suffix != ENDINGS[form]:
        raise ConfigError(f"--format {form} writes a file that ends in {ENDINGS[form]}, got {path}")
    if form == "onnx" and (missing := [name for name in ("onnx", "onnxruntime", "onnxscript") if not find_spec(name)]):
        raise ConfigError(
            f"--format onnx takes {', '.join(missing)}: pip install 'permafrost-retrieval[export]'; "
            "--format export needs nothing more"
        )
    vector = Vector(embedder)
    pixels = Pixels(vector.preprocesses, embedder.sizes, in_steps=form == "onnx")
    names = ", ".join(backbone.name for backbone in embedder.backbones)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Of TorchScript and what the exporters use of it; tracing warns of every size that is a constant here.
            warnings.simplefilter("ignore")
            write, read = _FORMS[form]
            content = write(pixels, vector, json.dumps(dict(note)))
            cosine = min(_cosines(read(content), embedder))
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0]
        raise SettingsError(f"{names} cannot be written as {form}: {reason}. Try another --format.") from error
    if not cosine >= _LEAST_COSINE:
        raise WeightsError(
            f"{names} as {form} would give other vectors than the store: of a drawn image one of the cosine "
            f"{cosine:.4f}, and at least {_LEAST_COSINE} is asked for. Try another --format, or export a bundle."
        )
    replace_bytes(path, content)
    return cosine


def _exported(pixels: Pixels, vector: Vector) -> torch.export.ExportedProgram:
    sides = {1: torch.export.Dim("height", min=1), 2: torch.export.Dim("width", min=1)}
    return torch.export.export(
        Whole(pixels, vector), (torch.zeros(3, 90, 133, dtype=torch.uint8),), dynamic_shapes=({**sides},), strict=False
    )


def _write_export(pixels: Pixels, vector: Vector, note: str) -> bytes:
    content = io.BytesIO()
    torch.export.save(_exported(pixels, vector), content, extra_files={NOTE: note})
    return content.getvalue()


def _write_torchscript(pixels: Pixels, vector: Vector, note: str) -> bytes:
    views = pixels(torch.zeros(3, 90, 133, dtype=torch.uint8))
    traced = torch.jit.trace(vector, (views,), check_trace=False)  # type: ignore[no-untyped-call]
    content = io.BytesIO()
    torch.jit.save(torch.jit.script(Whole(pixels, traced)), content, _extra_files={NOTE: note})
    return content.getvalue()


def _write_onnx(pixels: Pixels, vector: Vector, note: str) -> bytes:
    program = torch.onnx.export(
        _exported(pixels, vector),
        input_names=["image"],
        output_names=["vector"],
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    assert program is not None
    program.model_proto.metadata_props.add(key=NOTE, value=note)
    return bytes(program.model_proto.SerializeToString())


def _read_export(content: bytes) -> Run:
    module = torch.export.load(io.BytesIO(content)).module()
    return lambda image: module(torch.from_numpy(image)).numpy()


def _read_torchscript(content: bytes) -> Run:
    module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return lambda image: module(torch.from_numpy(image)).numpy()


def _read_onnx(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


_FORMS: dict[Format, tuple[Callable[[Pixels, Vector, str], bytes], Callable[[bytes], Run]]] = {
    "export": (_write_export, _read_export),
    "torchscript": (_write_torchscript, _read_torchscript),
    "onnx": (_write_onnx, _read_onnx),
}


def _cosines(run: Run, embedder: Embedder) -> list[float]:
    """Of each of three images, the cosine of the vector that ``run`` gives to the one that ``embedder`` gives."""
    from PIL import Image

    cosines = []
    for high, wide in ((240, 320), (331, 197), (64, 64)):
        y, x, colour = np.ogrid[:high, :wide, :3]
        image = ((y * y // 9 + 3 * x + 31 * colour * (x // 16) + x * y // 40) % 256).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        wanted = unit_length(embedder.embed([file.getvalue()]).vectors)[0]
        given = run(np.ascontiguousarray(image.transpose(2, 0, 1)))
        cosines.append(float(wanted.astype(np.float64) @ given.astype(np.float64)))
    return cosines
