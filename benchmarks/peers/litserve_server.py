"""LitServe on the models that Galley serves; run by the peers' own environment.

python litserve_server.py images --model GRAPH.onnx --port 9000
python litserve_server.py texts --model FOLDER --port 9000
"""

# LitServe and its friends are in the peers' environment, where no type checker looks.
# pyright: basic, reportMissingImports=false

import argparse
import base64
import io
import os

import litserve
import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

THREADS = os.cpu_count() or 1


class Images(litserve.LitAPI):
    def __init__(self, model, **options):
        super().__init__(**options)
        self.model = model

    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(self.model, options, ["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def decode_request(self, request):
        image = Image.open(io.BytesIO(base64.b64decode(request["image"])))
        image.draft("RGB", (256, 256))
        image = image.convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), 3)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        return np.asarray(image.crop((left, top, left + 224, top + 224)))

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.session.run(None, {self.name: x})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        best = np.argsort(-output)[:5]
        return {"predictions": [{"label": int(i), "confidence": float(output[i])} for i in best]}


class Texts(litserve.LitAPI):
    def __init__(self, model, **options):
        super().__init__(**options)
        self.model = model

    def setup(self, device):
        torch.set_num_threads(THREADS)
        self.encoder = SentenceTransformer(self.model, device="cpu")

    def decode_request(self, request):
        return request["input"]

    def batch(self, inputs):
        self.counts = [len(texts) for texts in inputs]
        return [text for texts in inputs for text in texts]

    def predict(self, x):
        return self.encoder.encode(x, batch_size=64, show_progress_bar=False)

    def unbatch(self, output):
        return np.split(output, np.cumsum(self.counts)[:-1])

    def encode_response(self, output):
        return {"data": [{"index": i, "embedding": v.tolist()} for i, v in enumerate(output)]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["images", "texts"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    api, path = (Images, "/v1/classify") if given.kind == "images" else (Texts, "/v1/embeddings")
    batched = {"max_batch_size": 16, "batch_timeout": 0.005, "api_path": path}
    server = litserve.LitServer(
        api(given.model, **batched), accelerator="cpu", workers_per_device=1
    )
    server.run(host="127.0.0.1", port=given.port, log_level="error", generate_client_file=False)
