"""The dataset card: what a source holds, as tables and as one page for people.

`facts` are what is kept of each study, `summary` and `cautions` what follows from them; `page` goes once over the
studies, draws, and puts all into HTML.
"""

from imaging.dataset_card.page import write_dataset_card
from imaging.dataset_card.summary import DatasetCard

__all__ = ["DatasetCard", "write_dataset_card"]
