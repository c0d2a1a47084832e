"""From a trained system to networks that run: kits, networks and their files, ONNX, latency, the command `eas`."""
