"""Who is next: jobs take turns, one image each, so that a large job does not keep a small one waiting."""

from collections import deque

from raypixel.serving.job import Job


class Turns:
    """Images that wait, in fair order."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Job, deque[int]]] = deque()
        self._num_images = 0

    def __len__(self) -> int:
        return self._num_images

    def add(self, job: Job) -> None:
        """Let all images of a job wait."""
        self._jobs.append((job, deque(range(len(job.images)))))
        self._num_images += len(job.images)

    def next(self) -> tuple[Job, int]:
        """Take the image whose turn it is: its job and its number there."""
        job, waiting = self._jobs.popleft()
        image = waiting.popleft()
        self._num_images -= 1
        if waiting:
            self._jobs.append((job, waiting))
        return job, image

    def remove(self, job: Job) -> None:
        """Forget what waits of a job."""
        for each in self._jobs:
            if each[0] is job:
                self._num_images -= len(each[1])
                self._jobs.remove(each)
                return

    def jobs(self) -> list[Job]:
        """Return the jobs of which an image waits."""
        return [job for job, _ in self._jobs]
