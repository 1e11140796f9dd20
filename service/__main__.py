"""`python -m service`: open the bundles, listen, leave in good order.

Exit status: 0 after SIGTERM, 1 where something of this machine is wrong (a bundle, the port), 2 for settings.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from typing import cast

from bundle.errors import BundleError
from bundle.session import DeviceName, Place
from service import VERSION
from service.logs import configure
from service.settings import Settings, SettingsError, read_settings, settings_table

# A decoding thread may hold the interpreter this long before the event loop gets its turn. Who waits wakes as
# often to ask: every 0.5 ms cost a tenth of a streamed answer on a busy core, every 2 ms a quarter of that.
# The default is 5 ms.
_SWITCH_SECONDS = 0.002


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["keys"]:
        from service.keys_command import command

        return command(given[1:])
    options = parser().parse_args(given)
    if options.print_settings:
        print(settings_table(), end="")
        return 0
    if options.print_metrics:
        from service.metrics import metrics_table

        print(metrics_table(), end="")
        return 0
    try:
        return run(read_settings())
    except SettingsError as error:
        print(f"voisin: {error}", file=sys.stderr)
        return 2
    except (BundleError, OSError) as error:
        print(f"voisin: {error}", file=sys.stderr)
        return 1


def run(settings: Settings) -> int:
    """Serve until told to stop.

    Raises:
        BundleError: a bundle is damaged, there is none, or a GPU is too small for it.
        SettingsError, OSError: what the environment asked for cannot be had.
    """
    from service.detection import Detector, load_beside
    from service.registry import open_registry

    configure(settings.log_level)
    sys.setswitchinterval(_SWITCH_SECONDS)
    identifier = load_beside()
    place = Place(
        cast(DeviceName, settings.device), memory=settings.device_bytes, kernels=settings.kernels == "auto"
    )
    registry = open_registry(settings.models_folder, device=place, languages=settings.language_order)
    from service.app import build_app
    from service.house import build_house
    from service.processes import Processes, decode_in_processes
    from service.server import serve
    from service.warm import warm_gpu

    warm_gpu(registry, rows=settings.batch_rows)
    house = build_house(
        settings,
        registry,
        Detector(identifier(), registry.codes),
        processes=decode_in_processes(settings, registry),
    )
    # What is there now stays: vocabularies and routes, which the collector of cycles would otherwise walk
    # through again and again, a tenth of a second in which nobody is answered.
    gc.collect()
    gc.freeze()
    if isinstance(house.workers, Processes):
        house.workers.launch()  # before the application, whose exporter of traces is a thread
    try:
        app = build_app(house)
        gc.freeze()
        serve(app, house)
    finally:
        house.workers.stop()
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line. What the service does is set by the environment, not here."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve the bundles of VOISIN_MODELS. Settings come from VOISIN_* variables.",
        epilog="`python -m service keys new NAME` makes an API key.",
    )
    parser.add_argument("--print-settings", action="store_true", help="the settings as a Markdown table")
    parser.add_argument("--print-metrics", action="store_true", help="the metrics as a Markdown table")
    parser.add_argument("--version", action="version", version=f"voisin {VERSION}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
