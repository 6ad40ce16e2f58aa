#!/bin/sh
# Every way of decoding on real speech: errors and time. Needs a finished run of examples/digits.
#
#   sh benchmarks/decoding_speech.sh RUN OUT
#
# RUN is the folder of the run (it holds ft20/ and labels/). A bigram model and a small Transformer are made of the 343
# training transcripts; weights are round numbers that were not tuned. Times are those of the whole program on one core.
set -eu
run=$1
out=$2
mkdir -p "$out/text"
cp "$run/labels/digits_train.wrd" "$out/text/train.txt"
cp "$run/labels/digits_valid_seen.wrd" "$out/text/valid.txt"

w2v-lm "$out/text/train.txt" --order 2 --arpa "$out/bigrams.arpa" --quiet
w2v-train "$out/text" --save-dir "$out/transformer" --task language_modeling --arch transformer_lm \
    --criterion cross_entropy --decoder-layers 2 --decoder-embed-dim 64 --decoder-ffn-embed-dim 256 \
    --decoder-attention-heads 4 --dropout 0.2 --optimizer adam --lr 0.002 --lr-scheduler inverse_sqrt \
    --warmup-updates 50 --max-update 300 --max-tokens 2048 --tokens-per-sample 64 --sample-break-mode eos \
    --no-epoch-checkpoints --validate-interval 20 --save-interval 20 --log-format none --cpu

decode() {
    for subset in digits_valid_seen digits_valid_unseen; do
        echo "== $subset $*"
        w2v-infer "$run/labels" --path "$run/ft20/checkpoint_best.pt" --gen-subset "$subset" --cpu --quiet \
            --results-path "$out/results" --num-workers 0 --decode-workers 0 "$@"
    done
}

decode --w2l-decoder viterbi
decode --w2l-decoder kenlm --lm-model "$out/bigrams.arpa" --lm-weight 2 --word-score 1 --beam 50
decode --w2l-decoder fairseqlm --lm-model "$out/transformer/checkpoint_best.pt" --lm-weight 1 --word-score 1 --beam 50
decode --w2l-decoder kenlm --lm-model "$out/bigrams.arpa" --lm-weight 2 --word-score 1 --beam 50 --nbest 50 \
    --rescore-lm "$out/transformer/checkpoint_best.pt" --rescore-weight 0.5
