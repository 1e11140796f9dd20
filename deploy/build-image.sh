#!/usr/bin/env bash
# Builds one target of the Dockerfile: deploy/build-image.sh TAG [--target service|training] [--build-arg RUNTIME=gpu] ...
# The builder is docker, or what VOISIN_IMAGE_BUILDER names: `podman`, or a command called as
# `COMMAND CONTEXT TAG [options as those of docker build]`.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$1
shift
builder=${VOISIN_IMAGE_BUILDER:-docker}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
options=(--build-arg "REVISION=$revision" "$@")
export BUILDAH_FORMAT=docker # buildah's own format has no HEALTHCHECK

case $(basename "$builder") in
  docker | podman) exec "$builder" build --tag "$tag" "${options[@]}" . ;;
  *) exec "$builder" . "$tag" "${options[@]}" ;;
esac
