"""Small models of transformers with random weights, and what transformers itself says with them.

Runs where torch is: `python make_models.py FOLDER PICTURE...` writes the models into the folder and
what they say as JSON to standard output.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

LABELS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
TEXTS = ["red green", "blue", "green blue red blue red green green red"]
PROMPTS = ["Hello", "What is FastAPI?", "Sing!"]
TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('it begins with the user') }}"
    "{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def named(**config):
    names = dict(enumerate(LABELS))
    return config | {"id2label": names, "label2id": {n: i for i, n in names.items()}}


def write_resnet(folder):
    """ResNet-18, with the processor's file as microsoft/resnet-18 has it."""
    config = transformers.ResNetConfig(
        **named(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]),
        layer_type="basic",
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    write(
        folder / "preprocessor_config.json",
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
            "size": 224,
        },
    )


def write_vit(folder):
    """A vision transformer, its weights in several files."""
    config = transformers.ViTConfig(
        **named(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
        image_size=32,
        patch_size=8,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder, max_shard_size="50KB")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessorPil(size=size, resample=2).save_pretrained(folder)


def write_pickle(folder, resnet):
    """The same weights as torch writes them."""
    for name in ("config.json", "preprocessor_config.json"):
        write(folder / name, json.loads((resnet / name).read_text()))
    model = transformers.AutoModelForImageClassification.from_pretrained(resnet)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_with_code(folder, resnet):
    """A model that brings code of its own, which notes that it was run."""
    config = json.loads((resnet / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    write(folder / "config.json", config)
    write(
        folder / "preprocessor_config.json",
        json.loads((resnet / "preprocessor_config.json").read_text()),
    )
    (folder / "model.safetensors").write_bytes((resnet / "model.safetensors").read_bytes())
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    code = f"open({str(folder / 'ran')!r}, 'w').close()\n" + code
    (folder / "own.py").write_text(code + "class OwnConfig: pass\n")


def write_sentences(folder):
    """A DistilBERT with mean pooling, whose words are colours."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "a"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = transformers.DistilBertConfig(
        vocab_size=8, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32
    )
    transformers.DistilBertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": "mean"})


def write_chat(folder):
    """A Llama that speaks bytes, most of them letters and words of two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = SPECIAL + alphabet + ["th", "he", "in", "er", "an"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("t", "h"), ("h", "e"), ("i", "n"), ("e", "r"), ("a", "n")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[1:],
        chat_template=TEMPLATE,
    )
    wrapped.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def seen(folder, pictures):
    pipe = transformers.pipeline("image-classification", model=str(folder), top_k=len(LABELS))
    found = {path.name: pipe(Image.open(path)) for path in pictures}
    return {name: {row["label"]: row["score"] for row in rows} for name, rows in found.items()}


def embedded(folder):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectors = {}
    for text in TEXTS:
        with torch.no_grad():
            ids = torch.tensor([tokenizer.encode(text).ids])
            states = model(input_ids=ids).last_hidden_state[0]
        vectors[text] = torch.nn.functional.normalize(states.mean(dim=0), dim=0).tolist()
    return vectors


def said(folder):
    """What it answers when it always takes the likeliest token, and how many tokens that takes."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    answers = {}
    for prompt in PROMPTS:
        turns = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        made = model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :]
        text = tokenizer.decode(made, skip_special_tokens=True)
        answers[prompt] = {"text": text, "prompt": ids.shape[1], "tokens": len(made)}
    return answers


def main(folder, pictures):
    transformers.logging.set_verbosity_error()
    torch.manual_seed(4)
    for name in ("resnet", "vit", "pickle", "code", "sentences", "chat"):
        (folder / name).mkdir(parents=True)
    write_resnet(folder / "resnet")
    write_vit(folder / "vit")
    write_pickle(folder / "pickle", folder / "resnet")
    write_with_code(folder / "code", folder / "resnet")
    write_sentences(folder / "sentences")
    write_chat(folder / "chat")
    told = {name: seen(folder / name, pictures) for name in ("resnet", "vit")}
    told |= {"sentences": embedded(folder / "sentences"), "chat": said(folder / "chat")}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
