"""A page in the browser: drop an image, see it segmented stage by stage.

| file | what |
|---|---|
| `desk` | runs models on images for the page: bounds, tiles, times; no Gradio |
| `views` | draws a result: overlay, edges, confidence, legend; files to download |
| `segment`, `refine`, `compare` | the tabs; `widgets` has what they share |
| `page` | the page itself, by Gradio (`pip install "pna[app]"`) |
"""
