"""The page of pna, as a Hugging Face Space."""

import threading

from pna.app.desk import Desk
from pna.app.page import serve
from pna.cli.app import MODELS
from pna.cli.demo import IMAGES

desk = Desk(MODELS)
desk.warm_up()
with serve(
    desk, host="0.0.0.0", port=7860, examples=sorted((IMAGES / "photos").iterdir())
) as address:
    print(f"Serving at {address}")
    threading.Event().wait()
