package featurestore

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// inFlight bounds the requests of one stream that are read and not yet answered; beyond it the
// server does not read, and the client's sends wait.
const inFlight = 32

// Stream answers pipelined Gets in the order of the requests. What is wrong with one request ends the
// stream with its error, after the answers to those before it. A request that waits for its
// min_position holds back those after it; it waits until the stream's deadline.
func (s *Server) Stream(stream grpc.BidiStreamingServer[freshetv1.GetRequest, freshetv1.GetResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	requests := make(chan *freshetv1.GetRequest, inFlight)
	ended := make(chan error, 1)
	// The reader touches nothing but the stream. It ends when the client has no more, and at the latest
	// right after this function, when gRPC ends the stream's context and Recv with it.
	go func() {
		ended <- receive(ctx, stream, requests)
		close(requests)
	}()
	for in := range requests {
		out, err := s.Get(ctx, in)
		if err != nil {
			return err
		}
		if err := stream.Send(out); err != nil {
			return err //nolint:wrapcheck // gRPC's own, at the edge
		}
	}
	return <-ended
}

func receive(ctx context.Context, stream grpc.BidiStreamingServer[freshetv1.GetRequest, freshetv1.GetResponse], requests chan<- *freshetv1.GetRequest) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err //nolint:wrapcheck // gRPC's own, at the edge
		}
		select {
		case requests <- in:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
