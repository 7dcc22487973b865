package harness

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Patience is how long a test waits for what must come: only a hang takes longer. No test may depend
// on how fast the machine is, so nothing else bounds time from above.
const Patience = 2 * time.Minute

// DialStrict opens one plaintext connection without any size limit of its own, so that only the
// server's limits are seen.
func DialStrict(endpoint string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1), grpc.MaxCallSendMsgSize(1<<31-1)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 20 * time.Second,
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond}}),
	}, opts...)
	return grpc.NewClient("passthrough:///"+strings.TrimPrefix(endpoint, "http://"), opts...)
}

// Dial is DialStrict for tests that do not take the database away: see AskAgain.
func Dial(endpoint string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return DialStrict(endpoint, append(opts, AskAgain())...)
}

var noLeader atomic.Int64

// NoLeader is how many calls of this run met a database that was taken for away.
func NoLeader() int64 { return noLeader.Load() }

// AskAgain repeats unary calls that were answered with "no leader": nothing was executed. A database
// that does not answer for 1.5 s is taken for away, and a busy machine can be that slow.
func AskAgain() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		began := time.Now()
		for {
			err := invoke(ctx, method, req, reply, conn, opts...)
			st := status.Convert(err)
			if st.Code() != codes.Unavailable || st.Message() != "etcdserver: no leader" || time.Since(began) > Patience {
				return err
			}
			noLeader.Add(1)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// Eventually asks |done| again and again until it is true; false after Patience.
func Eventually(done func() bool) bool {
	for deadline := time.Now().Add(Patience); ; time.Sleep(20 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
