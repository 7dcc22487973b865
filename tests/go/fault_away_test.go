package tests

// Goal: a database that is away makes errors, not silence, and takes nothing else with it.
// Method: all bytes to and from it stop.

import (
	"context"
	"errors"
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
)

const (
	syscallStop = syscall.SIGSTOP
	syscallCont = syscall.SIGCONT
)

func httpStatus(url string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
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

// TestAStalledDatabaseIsAnError: writes and linearizable reads end with an error in time, reads and
// watches from memory go on, /readyz tells it, and all is well again afterwards.
func TestAStalledDatabaseIsAnError(t *testing.T) {
	p := startProxied(t, 1)
	url := p.Replicas[0].URL()
	kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
	ctx := testContext(t)
	first, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("old"), Value: []byte("1")})
	check(t, err == nil, "put: %v", err)
	c := client(t, p.Endpoints()[0])
	live := c.Watch(ctx, "new", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-live
	code, body := httpStatus(url + "/readyz")
	check(t, code == 200, "/readyz: %d %s", code, body)

	for round := range size(1, 5) {
		p.proxies[0].Stall()
		var wg sync.WaitGroup
		var mu sync.Mutex
		texts := map[string]int{}
		for i := range 20 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				time.Sleep(time.Duration(i) * 150 * time.Millisecond)
				began := time.Now()
				var err error
				if i%4 == 3 {
					_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("old")})
				} else {
					_, err = kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "new/%d/%d", round, i)})
				}
				took := time.Since(began)
				text := fmt.Sprint(err)
				mu.Lock()
				texts[text]++
				mu.Unlock()
				known := strings.Contains(text, "etcdserver: request timed out") || strings.Contains(text, "etcdserver: no leader")
				if !known || took > 8500*time.Millisecond {
					t.Errorf("call %d ends after %v with %v", i, took, err)
				}
			}()
		}
		time.Sleep(2500 * time.Millisecond) // The breaker is open.
		code, body := httpStatus(url + "/readyz")
		check(t, code != 200 && code != 0, "/readyz with the database away: %d %s", code, body)
		code, _ = httpStatus(url + "/livez")
		check(t, code == 200, "/livez: %d", code)
		began := time.Now()
		got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("old"), Serializable: true})
		check(t, err == nil && len(got.Kvs) == 1, "serializable read: %v", err)
		check(t, time.Since(began) < time.Second, "a serializable read takes %v", time.Since(began))
		history, cancel := context.WithTimeout(ctx, 5*time.Second)
		resp := <-c.Watch(history, "old", clientv3.WithRev(first.Header.Revision))
		check(t, len(resp.Events) == 1, "a watch of the past: %+v", resp)
		cancel()
		began = time.Now()
		_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("at once")})
		took := time.Since(began)
		check(t, err != nil && strings.Contains(err.Error(), "no leader") && took < time.Second,
			"with the breaker open a write ends after %v with %v", took, err)
		wg.Wait()
		t.Logf("round %d: %v", round, texts)

		p.proxies[0].Resume()
		began = time.Now()
		for {
			if _, err = kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "new/%d/back", round)}); err == nil {
				break
			}
			check(t, time.Since(began) < 10*time.Second, "10 s after the database came back: %v", err)
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("writes again after %v", time.Since(began).Round(time.Millisecond))
		check(t, time.Since(began) < 5*time.Second, "writes only %v after it came back", time.Since(began))
		for seen := false; !seen; {
			select {
			case resp := <-live:
				check(t, resp.Err() == nil, "the watch ended: %v", resp.Err())
				for _, e := range resp.Events {
					seen = seen || string(e.Kv.Key) == fmt.Sprintf("new/%d/back", round)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the watch from before does not go on")
			}
		}
		code, body = httpStatus(url + "/readyz")
		check(t, code == 200, "/readyz afterwards: %d %s", code, body)
	}
	p.dense(t)
}

// TestAClientsDeadlineHolds while the database is stalled: the client's own deadline, not ours.
func TestAClientsDeadlineHolds(t *testing.T) {
	p := startProxied(t, 1)
	kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
	p.proxies[0].Stall()
	ctx, cancel := context.WithTimeout(testContext(t), 700*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("key")})
	took := time.Since(began)
	check(t, err != nil && took < 1200*time.Millisecond, "ends after %v with %v", took, err)
	p.proxies[0].Resume()
	again, err := kv.Put(testContext(t), &pb.PutRequest{Key: []byte("key")})
	for range 100 {
		if err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
		again, err = kv.Put(testContext(t), &pb.PutRequest{Key: []byte("key")})
	}
	check(t, err == nil && again.Header.Revision <= 3, "afterwards: %v %v", again, err)
	p.dense(t)
}

// TestAStopInDoubtEnds: SIGTERM while a write's outcome is unknown and the database is away.
func TestAStopInDoubtEnds(t *testing.T) {
	p := startProxied(t, 1)
	kv := pb.NewKVClient(dial(t, p.Endpoints()[0]))
	p.proxies[0].Stall()
	answered := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
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
		check(t, err != nil && !errors.Is(err, context.DeadlineExceeded), "the write ends with %v", err)
		t.Logf("the write ends with %v", err)
	case <-time.After(time.Second):
		t.Fatal("the write has no answer")
	}
}
