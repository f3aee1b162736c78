"""Post-processing: a ranking made again from the gallery's own structure. Each is reported in a row of its own.

Whitening learns from the training images; the others look at the gallery that is searched, which a single search
cannot do for nothing: their scores are not comparable with plain ones without saying so.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from stages.retrieval.rerank.database_augmentation import DatabaseAugmentationConfig
from stages.retrieval.rerank.k_reciprocal import KReciprocalConfig
from stages.retrieval.rerank.query_expansion import QueryExpansionConfig
from stages.retrieval.rerank.whitening import WhiteningConfig

RerankConfig: TypeAlias = Annotated[
    QueryExpansionConfig | DatabaseAugmentationConfig | KReciprocalConfig | WhiteningConfig,
    Field(discriminator="kind"),
]
"""Any kind of post-processing, distinguished by ``kind``."""

__all__ = [
    "DatabaseAugmentationConfig",
    "KReciprocalConfig",
    "QueryExpansionConfig",
    "RerankConfig",
    "WhiteningConfig",
]
