"""Feature upsamplers of other papers, one file each: an image guides features to its own size."""
