"""The dataset source `swe-bugs`: bugs put into code, kept where its tests notice them."""
