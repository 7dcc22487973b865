package tests

// Goal: a database that is away makes errors, not silence, and takes nothing else with it.
// Method: all bytes to and from it stop, and only flow again when everything has been answered that
// must be answered without it.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/tests/harness"
)

const (
	syscallStop = syscall.SIGSTOP
	syscallCont = syscall.SIGCONT
)

func httpStatus(url string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestAStalledDatabaseIsAnError: writes and linearizable reads end with an error, reads and watches
// from memory go on, /readyz tells it, and all is well again afterwards.
func TestAStalledDatabaseIsAnError(t *testing.T) {
	p := startProxied(t, 1)
	kv := pb.NewKVClient(dialStrict(t, p.Endpoints()[0]))
	ctx := testContext(t)
	first, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("old"), Value: []byte("1")})
	check(t, err == nil, "put: %v", err)
	live := client(t, p.Endpoints()[0]).Watch(ctx, "new", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-live
	readyz(t, p.Replicas[0], true)

	for round := range size(1, 5) {
		p.proxies[0].Stall()
		refused := stalledCalls(t, kv, round, func() {
			readyz(t, p.Replicas[0], false) // The breaker is open.
			awayButAlive(t, p, first.Header.Revision)
		})
		p.proxies[0].Resume()
		began := time.Now()
		back := harness.Eventually(func() bool {
			_, err = kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "new/%d/back", round)})
			return err == nil
		})
		check(t, back, "no writes after the database came back: %v", err)
		t.Logf("writes again after %v", time.Since(began).Round(time.Millisecond))
		for seen := false; !seen; {
			select {
			case resp := <-live:
				check(t, resp.Err() == nil, "the watch ended: %v", resp.Err())
				for _, e := range resp.Events {
					seen = seen || string(e.Kv.Key) == fmt.Sprintf("new/%d/back", round)
				}
			case <-time.After(harness.Patience):
				t.Fatal("the watch from before does not go on")
			}
		}
		readyz(t, p.Replicas[0], true)
		for _, key := range refused {
			got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key), CountOnly: true})
			check(t, err == nil && got.Count == 0, "%s was answered with no leader, and was done: %v %v", key, got, err)
		}
	}
	p.dense(t)
}

// readyz waits until /readyz says |ready|, and wants /livez to be well meanwhile.
func readyz(t *testing.T, r *harness.Replica, ready bool) {
	t.Helper()
	var code int
	var body string
	said := harness.Eventually(func() bool {
		code, body = httpStatus(r.URL() + "/readyz")
		return code != 0 && (code == 200) == ready
	})
	check(t, said, "/readyz: %d %s", code, body)
	code, body = httpStatus(r.URL() + "/livez")
	check(t, code == 200, "/livez: %d %s", code, body)
}

// stalledCalls begins writes and linearizable reads before, while and after the breaker opens, runs
// |meanwhile|, and wants an error in etcd's words for each. It returns the keys of those writes that
// are said not to have been sent.
func stalledCalls(t *testing.T, kv pb.KVClient, round int, meanwhile func()) (refused []string) {
	t.Helper()
	ctx := testContext(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var worst time.Duration
	texts := map[string]int{}
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			time.Sleep(time.Duration(i) * 150 * time.Millisecond)
			key := fmt.Sprintf("new/%d/%d", round, i)
			began := time.Now()
			var err error
			if i%4 == 3 {
				_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("old")})
			} else {
				_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte(key)})
			}
			text := fmt.Sprint(err)
			mu.Lock()
			defer mu.Unlock()
			texts[text]++
			worst = max(worst, time.Since(began))
			if strings.Contains(text, "etcdserver: no leader") {
				refused = append(refused, key)
			} else if !strings.Contains(text, "etcdserver: request timed out") {
				t.Errorf("call %d ends with %v", i, err)
			}
		}()
	}
	meanwhile()
	wg.Wait()
	t.Logf("round %d: %v; the slowest took %v", round, texts, worst.Round(time.Millisecond))
	return refused
}

// awayButAlive: what needs no database is answered while it is away, and the rest is refused.
func awayButAlive(t *testing.T, p *proxied, rev int64) {
	t.Helper()
	ctx := testContext(t)
	kv := pb.NewKVClient(dialStrict(t, p.Endpoints()[0]))
	began := time.Now()
	got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("old"), Serializable: true})
	check(t, err == nil && len(got.Kvs) == 1, "serializable read: %v", err)
	t.Logf("a serializable read takes %v", time.Since(began).Round(time.Millisecond))
	history, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	resp := <-client(t, p.Endpoints()[0]).Watch(history, "old", clientv3.WithRev(rev))
	check(t, len(resp.Events) == 1, "a watch of the past: %+v", resp)
	began = time.Now()
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("at once")})
	check(t, err != nil && strings.Contains(err.Error(), "no leader"), "with the breaker open a write ends with %v", err)
	t.Logf("with the breaker open a write takes %v", time.Since(began).Round(time.Millisecond))
}

// TestAClientsDeadlineHolds while the database is stalled: the client's own deadline, not ours.
func TestAClientsDeadlineHolds(t *testing.T) {
	p := startProxied(t, 1)
	kv := pb.NewKVClient(dialStrict(t, p.Endpoints()[0]))
	p.proxies[0].Stall()
	ctx, cancel := context.WithTimeout(testContext(t), 700*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("key")})
	took := time.Since(began)
	// The client ends it, or the server does at the client's deadline; the breaker, if it came too late.
	text := status.Convert(err).Message()
	tooSlow := took >= 1500*time.Millisecond && text == "etcdserver: no leader"
	check(t, status.Code(err) == codes.DeadlineExceeded || text == "etcdserver: request timed out" || tooSlow,
		"ends after %v with %v", took, err)
	t.Logf("a deadline of 700 ms ends after %v", took.Round(time.Millisecond))
	p.proxies[0].Resume()
	tries := int64(0)
	var again *pb.PutResponse
	done := harness.Eventually(func() bool {
		tries++
		again, err = kv.Put(testContext(t), &pb.PutRequest{Key: []byte("key")})
		return err == nil
	})
	// Each try may have been done, and the first one.
	check(t, done && again.Header.Revision <= 2+tries, "afterwards: %v %v", again, err)
	p.dense(t)
}

// TestAStopInDoubtEnds: SIGTERM while a write's outcome is unknown and the database is away.
func TestAStopInDoubtEnds(t *testing.T) {
	p := startProxied(t, 1)
	kv := pb.NewKVClient(dialStrict(t, p.Endpoints()[0]))
	p.proxies[0].Stall()
	answered := make(chan error, 1)
	ctx := testContext(t)
	go func() {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("key")})
		answered <- err
	}()
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	err := p.Replicas[0].Stop()
	check(t, err == nil, "%v", err)
	t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	select {
	case err := <-answered:
		check(t, err != nil, "the write is acknowledged")
		t.Logf("the write ends with %v", err)
	case <-time.After(harness.Patience):
		t.Fatal("the write has no answer")
	}
}
