"""What the notebooks need beyond the method: studies, training, measuring, reports and the runner."""

from gpcore import paths

if not paths.CHECKOUT:
    raise ImportError(
        f"gpcore.companion works on a checkout's data, figures and notebooks, which {paths.ROOT} has not: "
        "clone the repository and run `pip install -e '.[companion]'` or `make setup` there"
    )
