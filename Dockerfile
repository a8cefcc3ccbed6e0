# The freshet binary, static, run by a user that is not root. Everything it keeps is in /var/lib/freshet.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /out/freshet ./cmd/freshet

FROM debian:12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin freshet \
    && install -d -o freshet -g freshet -m 0750 /var/lib/freshet
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/freshet /usr/local/bin/freshet
USER 10001
VOLUME /var/lib/freshet
ENTRYPOINT ["/usr/local/bin/freshet"]
CMD ["--help"]
