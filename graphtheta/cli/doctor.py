"""`graphtheta doctor`: report on the installation and the job."""

from __future__ import annotations

from graphtheta.cli.terminal.show import show_rows

__all__ = ["doctor"]


def doctor() -> None:
    """Check the installation and the job.

    Run it as you run training: with the same launcher, on the same hosts.

    Example:
      mpiexec -n 2 graphtheta doctor
    """
    from graphtheta.comm.doctor import diagnose
    from graphtheta.comm.launch import communicator, threads_per_rank
    from graphtheta.runtime.paths import cache_folder
    from graphtheta.runtime.tuning import tune

    settings = tune(threads=threads_per_rank())  # as training does
    findings = diagnose(communicator(), settings, cache_dir=cache_folder())
    show_rows([(finding.topic, finding.value) for finding in findings])
    remedies = [(finding.topic, finding.remedy) for finding in findings if finding.remedy]
    if remedies:
        show_rows(remedies, title="What to do:")
    else:
        print("No problems found.")
