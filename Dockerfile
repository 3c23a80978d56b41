# A static binary on an empty base. The environment takes KAFKA_... variables as
# the apache/kafka image does; no arguments are needed, and arguments are
# gregor's own: docker run IMAGE version.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /gregor ./cmd/gregor \
    && mkdir -p /rootfs/data \
    && echo 'appuser:x:1000:1000::/:/gregor' > /rootfs/passwd

FROM scratch
COPY --from=build /rootfs/passwd /etc/passwd
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# A new volume takes over the owner of the directory it is mounted on.
COPY --from=build --chown=1000:1000 /rootfs/data /var/lib/kafka/data
COPY --from=build /gregor /gregor
USER 1000:1000
ENV KAFKA_LOG_DIRS=/var/lib/kafka/data \
    KAFKA_HTTP_ADDRESS=0.0.0.0:9644
EXPOSE 9092 9093 9644
VOLUME /var/lib/kafka/data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=2s --retries=30 CMD ["/gregor", "health"]
ENTRYPOINT ["/gregor"]
CMD ["start"]
