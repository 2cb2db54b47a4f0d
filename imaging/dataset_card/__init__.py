"""The dataset card: what a source holds, as tables and as one page for people.

`card` goes once over the studies; `facts` are what is kept of each, `tables`, `clinical` and `cautions` what follows
from them, `figures` and `pictures` what is drawn, and `page` puts all into HTML.
"""

from imaging.dataset_card.page import write_dataset_card
from imaging.dataset_card.summary import DatasetCard

__all__ = ["DatasetCard", "write_dataset_card"]
