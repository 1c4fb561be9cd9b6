//! The client: calls one after another, so many at once, for a while.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use quadrille_proto::oip::{
    ModelInferRequest, ServerReadyRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use tonic::transport::{Channel, Endpoint};

pub const INPUTS: usize = 8;
pub const MODEL: &str = "bench-forest";

/// Distinct requests, so that branches cannot be learned.
const REQUESTS: usize = 256;
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Client(GrpcInferenceServiceClient<Channel>);

/// What a server did in its turn.
pub struct Turn {
    pub calls_per_s: f64,
    pub p99_us: f64,
}

impl Client {
    /// Connects to a server, once it is ready.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Ok(channel) = endpoint.connect().await {
                let mut client = GrpcInferenceServiceClient::new(channel);
                if client.server_ready(ServerReadyRequest {}).await.is_ok() {
                    return Ok(Client(client));
                }
            }
            ensure!(
                Instant::now() < deadline,
                "not ready within {READY_WITHIN:?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Calls for the time of a turn.
    pub async fn load(&self, rows: u32, concurrency: u32, turn: Duration) -> anyhow::Result<Turn> {
        let requests: Arc<[ModelInferRequest]> = requests(rows as usize).into();
        let start = Instant::now();
        let callers: Vec<_> = (0..concurrency as usize)
            .map(|first| {
                tokio::spawn(call(
                    self.0.clone(),
                    Arc::clone(&requests),
                    first * 7,
                    start + turn,
                ))
            })
            .collect();
        let mut took_us = Vec::new();
        for caller in callers {
            took_us.extend(caller.await.context("a caller")??);
        }
        let elapsed = start.elapsed();
        took_us.sort_by(f64::total_cmp);
        Ok(Turn {
            calls_per_s: took_us.len() as f64 / elapsed.as_secs_f64(),
            p99_us: took_us[took_us.len() * 99 / 100],
        })
    }
}

/// The times of calls, one after another, in microseconds.
async fn call(
    mut client: GrpcInferenceServiceClient<Channel>,
    requests: Arc<[ModelInferRequest]>,
    first: usize,
    until: Instant,
) -> anyhow::Result<Vec<f64>> {
    let mut took_us = Vec::new();
    for request in requests.iter().cycle().skip(first) {
        let began = Instant::now();
        if began >= until && !took_us.is_empty() {
            break;
        }
        let response = client.model_infer(request.clone()).await?.into_inner();
        took_us.push(began.elapsed().as_secs_f64() * 1e6);
        let sizes = response.raw_output_contents.len();
        ensure!(sizes == 2, "{sizes} outputs");
    }
    Ok(took_us)
}

fn requests(rows: usize) -> Vec<ModelInferRequest> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut request = || {
        let numbers = (0..rows * INPUTS).map(|_| (random.share() as f32).to_le_bytes());
        let numbers: Vec<u8> = numbers.flatten().collect();
        ModelInferRequest {
            model_name: MODEL.to_owned(),
            inputs: vec![InferInputTensor {
                name: "input".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![rows as i64, INPUTS as i64],
                ..Default::default()
            }],
            raw_input_contents: vec![numbers.into()],
            ..Default::default()
        }
    };
    (0..REQUESTS).map(|_| request()).collect()
}

/// xorshift64*: the same rows each time.
pub struct Random(pub u64);

impl Random {
    /// 0 to 1.
    pub fn share(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
