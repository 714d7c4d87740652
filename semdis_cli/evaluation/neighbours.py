"""k-nearest-neighbour classification of images by features of their latents."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from semdis_cli.stops import look

TEMPERATURE = 0.07
_SIMILARITIES_AT_ONCE = 1 << 24


def neighbour_votes(rows: Tensor, labels: Tensor, files: Tensor, num_classes: int, num_neighbours: int) -> Tensor:
    """Return the votes for each class, [N,C]: weighted k-NN of Wu et al. 2018 (section 3.4), leaving one file out.

    `rows` [N,P,F] float32: P features of each image, `labels` [N] in 0..C-1, `files` [N]: which file each image is of.
    Every feature has its `num_neighbours` nearest ones by cosine among those of images of other files, each with a vote
    of exp(cosine / 0.07) for the class of its image; the votes of an image's features are added up.
    """
    N, P, F = rows.shape
    directions = normalize(rows.reshape(N * P, F), dim=1)
    images = torch.arange(N).repeat_interleave(P)
    votes = torch.zeros(N, num_classes, dtype=torch.float64)
    size = max(1, _SIMILARITIES_AT_ONCE // len(directions))
    for chunk in torch.arange(len(directions)).split(size):
        look()
        similarity = directions[chunk] @ directions.T
        similarity[files[images[chunk], None] == files[images][None]] = -torch.inf
        nearest, places = similarity.topk(min(num_neighbours, len(directions)), dim=1)
        weights = (nearest.double() / TEMPERATURE).exp()  # of what is left out: exp(-inf) = 0
        chosen = images[chunk, None] * num_classes + labels[images[places]]
        votes.view(-1).index_add_(0, chosen.flatten(), weights.flatten())
    return votes
