curl -X POST https://aimichat.app/v1/chat/completions \
-H "Authorization: Bearer aimichat_your_api_key_here" \
-H "Content-Type: application/json" \
-d '{
"messages": [
{"role": "user", "content": "Hello, how are you?"}
],
"max_tokens": 500,
"temperature": 0.7
}'
