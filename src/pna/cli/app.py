"""`pna app`: a page in the browser that segments what is dropped on it."""

import argparse
import threading

from pna.cli.demo import IMAGES
from pna.cli.options import add_device_argument

MODELS = ("voc-lite", "damage-lite")
EPILOG = """\
examples:
  pna app
  pna app --model runs/own/model --model voc-lite --port 8000
  pna app --host 0.0.0.0                 # for everybody who reaches this machine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="offer this model: a saved one, a bundled name or an ONNX file; may be given several "
        "times (default: the bundled ones)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, help="its port (default: a free one from 7860 on)")
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from pna.app.desk import Desk
    from pna.app.page import serve

    desk = Desk(args.model or MODELS, args.device, args.setup.load_presets())
    desk.warm_up()  # a wrong name ends it at once, not at the first visitor's image
    with serve(
        desk, host=args.host, port=args.port, examples=sorted((IMAGES / "photos").iterdir())
    ) as address:
        print(f"Serving at {address} until interrupted (Ctrl+C).", flush=True)
        if args.browser:
            import webbrowser

            webbrowser.open(address)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Stopped.")
    return 0
