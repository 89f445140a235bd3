package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What the environment asks for, see bench/contenders.py.
var (
	url       = os.Getenv("BENCH_URL")
	queue     = os.Getenv("BENCH_QUEUE")
	target    = os.Getenv("BENCH_TARGET")
	messages  = number("BENCH_MESSAGES")
	bodyBytes = number("BENCH_BODY_BYTES")
	prefetch  = number("BENCH_PREFETCH")
	window    = number("BENCH_WINDOW")
	rate, _   = strconv.ParseFloat(os.Getenv("BENCH_RATE"), 64)
)

func number(name string) int {
	value, err := strconv.Atoi(os.Getenv(name))
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// order is the payload, see bench/client/payload.py.
type order struct {
	ID       int     `json:"id"`
	Customer string  `json:"customer"`
	Total    float64 `json:"total"`
	Note     string  `json:"note"`
}

func jsonBody() []byte {
	head, tail := `{"id":1,"customer":"c-1042","total":19.9,"note":"`, `"}`
	return []byte(head + strings.Repeat("x", bodyBytes-len(head)-len(tail)) + tail)
}

// stopwatch measures the wall clock and the CPU time of this process.
type stopwatch struct {
	startedAt time.Time
	cpu       time.Duration
}

func start() stopwatch { return stopwatch{time.Now(), cpuTime()} }

func cpuTime() time.Duration {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// report hands over what was measured. Without latencies it has no percentiles.
func (s stopwatch) report(late []time.Duration) {
	measured := map[string]float64{
		"wall_s": time.Since(s.startedAt).Seconds(),
		"cpu_s":  (cpuTime() - s.cpu).Seconds(),
	}
	sort.Slice(late, func(i, j int) bool { return late[i] < late[j] })
	if len(late) > 0 {
		for _, part := range []int{50, 95, 99} {
			measured[fmt.Sprintf("p%d_ms", part)] = late[len(late)*part/100].Seconds() * 1000
		}
	}
	text, err := json.Marshal(measured)
	check(err)
	path := os.Getenv("BENCH_REPORT")
	check(os.WriteFile(path+".unfinished", text, 0o600))
	check(os.Rename(path+".unfinished", path))
}
