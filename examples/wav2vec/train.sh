#!/bin/sh
# Train wav2vec, vq-wav2vec with a Gumbel quantizer and vq-wav2vec with k-means, small, on a folder of manifests.
#
#   sh examples/wav2vec/train.sh DATA OUT [FLAGS]
#
# DATA holds train.tsv and valid.tsv (w2v-manifest). Each model's checkpoints and log go to OUT/wav2vec, OUT/gumbel
# and OUT/kmeans. A run that was stopped resumes. FLAGS come last in every command, so they win.
#
# The options are the recipes' of the original README but for: narrower and fewer layers, crops of 2 s, a faster
# schedule, the InfoNCE loss (which logs the accuracy, and leaves its plateau at once where the binary loss needs
# a few hundred updates), fewer codewords, and the Gumbel quantizer's single layer, cooling and diversity weight,
# which spread its codes within hundreds instead of thousands of updates. The codewords of k-means begin near zero and
# have a long way to go: a higher rate, reached slowly, and more updates.
set -eu
data=$1
out=$2
shift 2

train() {
    name=$1
    shift
    mkdir -p "$out/$name"
    w2v-train "$data" --save-dir "$out/$name" --task audio_pretraining --arch wav2vec --criterion wav2vec --infonce \
        --conv-feature-layers '[(48, 10, 5), (64, 8, 4)] + [(96, 4, 2)] * 3 + [(96, 1, 1)]' \
        --conv-aggregator-layers '[(96, 2, 1), (96, 3, 1), (96, 4, 1), (96, 5, 1), (96, 6, 1)]' \
        --skip-connections-agg --residual-scale 0.5 --num-negatives 10 --prediction-steps 12 \
        --optimizer adam --lr 1e-06 --max-lr 0.001 --lr-scheduler cosine --warmup-updates 50 --warmup-init-lr 1e-07 \
        --max-update 600 --max-sample-size 32000 --max-tokens 192000 --num-workers 1 --no-epoch-checkpoints \
        --skip-invalid-size-inputs-valid-test --validate-interval-updates 300 --log-format json --log-interval 10 \
        "$@" 2>&1 | tee -a "$out/$name/train.log"
}

keys='["prob_perplexity","code_perplexity","temp"]'
train wav2vec --log-compression "$@"
train gumbel --activation gelu --vq-type gumbel --vq-groups 2 --vq-vars 40 --combine-groups --vq-depth 1 \
    --vq-temp '(2,0.5,0.998)' --loss-weights '[0.005]' --log-keys "$keys" "$@"
train kmeans --activation gelu --vq-type kmeans --vq-groups 2 --vq-vars 32 --loss-weights '[1]' --log-keys "$keys" \
    --max-lr 0.002 --warmup-updates 200 --max-update 1200 "$@"
