//! Echo on tokio-tungstenite as its documentation writes it: read a message, send it, which flushes.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Echoes until the peer ends. `buffer_bytes`: size of both buffers, `None` for the library's own.
pub async fn serve(stream: TcpStream, message_bytes_max: usize, buffer_bytes: Option<usize>) {
    let mut config = WebSocketConfig::default()
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
        .max_write_buffer_size(4 * message_bytes_max);
    if let Some(bytes) = buffer_bytes {
        config = config.read_buffer_size(bytes).write_buffer_size(bytes);
    }
    let Ok(mut socket) = accept_async_with_config(stream, Some(config)).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
