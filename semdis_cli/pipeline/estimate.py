"""Estimates: the time that a run would take, from a small part of it."""

from itertools import islice

from semdis_cli.events import Failure
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import encoded_calls, image_calls, start_workers
from semdis_cli.pipeline.encode_plan import EncodePlan
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.reading import ThreadReading
from semdis_cli.settings import EncodeSettings
from semdis_cli.store.writing.plan import PlannedShard

_SHARDS_TRIED = 3
_CALLS_TRIED = 3  # for each of those, and each thread


def refused_images(plan: EncodePlan, loader: Loader, tokenizer: Tokenizer) -> list[Failure]:
    """The images that a run would refuse because they can never fit into memory."""
    memory = CallMemory(tokenizer, loader.room, "encode")
    too_large = [shard for shard in plan.shards if not memory.can_be_had(shard.bucket, 1)]
    calls = ((shard.bucket, [image.source.key]) for shard in too_large for image in shard.images)
    return [failure for bucket, keys in calls for failure in memory.refused(bucket, keys)]


def estimate_s(plan: EncodePlan, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings) -> float:
    """Seconds that encoding `plan` would take, from reading and encoding a few images of its largest shards."""
    largest = sorted(plan.shards, key=lambda shard: -len(shard.images))[:_SHARDS_TRIED]
    with start_workers(tokenizer, settings.num_workers) as workers:
        num_first = workers.num_model_threads  # they pay for the start-up of their size
        tried = [
            list(encoded_calls(calls, ThreadReading(loader, workers), tokenizer, settings.latents, workers))
            for shard in largest
            if (calls := list(islice(image_calls([shard], tokenizer), num_first * _CALLS_TRIED)))
        ]
        tried = [[result for result in shard_results if result.images] for shard_results in tried]
        results = [result for shard_results in tried for result in shard_results]
        later = [result for shard_results in tried for result in shard_results[num_first:] or shard_results]
        num_read = sum(len(result.call.images) for result in results)
        num_pixels = sum(_call_pixels(result.call.shard, tokenizer) for result in later)
        read_s = sum(result.times.read_s for result in results) / max(num_read, 1)  # of an image
        encode_s = sum(result.times.encode_s for result in later) / max(num_pixels, 1)  # of a pixel
        num_images = sum(len(shard.images) for shard in plan.shards)
        all_pixels = sum(_num_calls(shard, tokenizer) * _call_pixels(shard, tokenizer) for shard in plan.shards)
        return workers.elapsed_s(num_images * read_s, all_pixels * encode_s)


def _num_calls(shard: PlannedShard, tokenizer: Tokenizer) -> int:
    return -(-len(shard.images) // tokenizer.images_per_call(*shard.bucket))


def _call_pixels(shard: PlannedShard, tokenizer: Tokenizer) -> int:
    """Pixels that the model sees in a call, padding included."""
    return tokenizer.images_per_call(*shard.bucket) * shard.bucket[0] * shard.bucket[1]
