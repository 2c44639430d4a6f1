"""Batches made ahead by processes of Grain, in the order of the steps.

`grain.MapDataset` numbers the steps, each worker makes whole batches by `stream.batch(step)`, and the
iterator keeps them in order; what a step holds depends on nothing but its number, so a run that is
resumed, or goes back, only starts the iterator elsewhere.
"""

import contextlib

FAR = 1 << 40  # a step that no run reaches


class Ahead:
    """A stream whose batches come from `count` workers, each up to `depth` batches ahead."""

    def __init__(self, stream, count: int, depth: int = 2):
        self.stream, self.count, self.depth = stream, count, depth
        self.step = self.iterator = None

    @property
    def fingerprint(self):
        """The stream's own: workers change nothing."""
        return self.stream.fingerprint

    def batch(self, step: int) -> dict:
        """The batch of a step; ValueError as the stream raises it."""
        if step != self.step:
            self.close()
            self.iterator = self._start(step)
        self.step = None
        try:
            made = next(self.iterator)
        except Exception as error:
            self.close()
            self.stream.batch(step)  # says what is wrong with this batch in its own words
            raise ValueError(f"a data worker failed: {type(error).__name__}: {error}") from error
        self.step = step + 1
        return made

    def _start(self, step):
        try:
            import grain
        except ImportError as error:
            raise ValueError(
                "config.data.workers needs the package grain, which is missing: pip install grain"
            ) from error
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads its flags, and nobody here parses any
        steps = grain.MapDataset.range(step, FAR).map(self.stream.batch)
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        made = steps.to_iter_dataset(reading).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=self.count, per_worker_buffer_size=self.depth)
        )
        return iter(made)

    def close(self):
        """Ends the workers."""
        if self.iterator is not None:
            with contextlib.suppress(Exception):
                self.iterator.close()
        self.iterator = self.step = None


def ahead(stream, count: int):
    """The stream, or with workers the same ahead of time."""
    return Ahead(stream, count) if count else stream
