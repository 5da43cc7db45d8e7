"""The usual tutorial's image server: torch in an async route, one picture at a time.

Random weights do for timing. Run by the peers' own environment:

python tutorial.py --port 9000
"""

# torch and transformers are in the peers' environment, where no type checker looks.
# pyright: basic, reportMissingImports=false

import argparse
import base64
import io
import os

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel
from transformers import AutoModelForImageClassification, ConvNextImageProcessorPil, ResNetConfig

torch.set_num_threads(os.cpu_count() or 1)
RESNET_18 = ResNetConfig(
    depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=1000
)
model = AutoModelForImageClassification.from_config(RESNET_18).eval()
processor = ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875)
app = FastAPI()


class ClassifyRequest(BaseModel):
    image: str


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.post("/v1/classify")
async def classify(request: ClassifyRequest):
    image = Image.open(io.BytesIO(base64.b64decode(request.image))).convert("RGB")
    with torch.no_grad():
        logits = model(**processor(images=image, return_tensors="pt")).logits
    best = logits.softmax(-1)[0].topk(5)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"predictions": [{"label": label, "confidence": share} for label, share in pairs]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, port=parser.parse_args().port, log_level="error", access_log=False)
