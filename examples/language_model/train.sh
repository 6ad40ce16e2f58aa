#!/bin/sh
# Train a small Transformer language model over words and one over letters on a text, and measure them beside a 4-gram.
#
#   sh examples/language_model/train.sh TEXT OUT [FLAGS]
#
# TEXT is a file with a sentence per line, plain or gzipped. Every 50th line is held out. Texts, checkpoints and logs go
# to OUT/words and OUT/letters. A run that was stopped resumes. FLAGS come last in every training command, so they win.
#
# Both models are small and trained for few minutes with a rate that falls to nothing. The word model has bands of rarer
# words with narrower vectors, the same ones for reading and for saying a word: a plain softmax over 33,000 words would
# take most of the time.
set -eu
text=$1
out=$2
shift 2

mkdir -p "$out/words" "$out/letters"
gzip -cdf "$text" | awk 'NR % 50' > "$out/words/train.txt"
gzip -cdf "$text" | awk 'NR % 50 == 0' > "$out/words/valid.txt"
cp "$out/words/train.txt" "$out/words/valid.txt" "$out/letters"

train() {
    name=$1
    updates=$2
    shift 2
    w2v-train "$out/$name" --save-dir "$out/$name" --task language_modeling --arch transformer_lm \
        --criterion cross_entropy --sample-break-mode eos --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1 \
        --lr-scheduler polynomial_decay --warmup-updates 150 --total-num-update "$updates" --max-update "$updates" \
        --max-tokens 2048 --lr 0.003 --decoder-attention-heads 4 --num-workers 0 \
        --no-epoch-checkpoints --log-format json "$@" 2>&1 | tee -a "$out/$name/train.log"
}

train words 2000 --tokens-per-sample 128 --decoder-layers 2 --decoder-embed-dim 192 --decoder-ffn-embed-dim 768 \
    --adaptive-input --adaptive-input-cutoff 2000,10000 --adaptive-softmax-cutoff 2000,10000 \
    --tie-adaptive-weights --tie-adaptive-proj "$@"
train letters 1500 --unit letter --tokens-per-sample 512 --decoder-layers 3 --decoder-embed-dim 128 \
    --decoder-ffn-embed-dim 512 --dropout 0 "$@"

w2v-lm --order 4 --arpa "$out/4gram.arpa" "$out/words/train.txt" --quiet
sed -e 's/ /|/g' -e 's/./& /g' -e 's/$/|/' "$out/letters/valid.txt" > "$out/letters/spelled.txt"
echo "4-gram, per word:"
w2v-lm --perplexity "$out/words/valid.txt" --lm "$out/4gram.arpa" --quiet
echo "Transformer over words, per word:"
w2v-lm --perplexity "$out/words/valid.txt" --lm "$out/words/checkpoint_best.pt" --quiet
echo "Transformer over letters, per letter:"
w2v-lm --perplexity "$out/letters/spelled.txt" --lm "$out/letters/checkpoint_best.pt" --quiet
